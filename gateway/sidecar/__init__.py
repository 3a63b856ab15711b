"""The way to control."""
