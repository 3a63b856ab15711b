"""The ways to switch, a file each; every one leaves the gate open on what serves, or down when nothing does."""
