"""What the machine does: cards, memory, disks, energy; sampled, so that looking costs nothing."""
