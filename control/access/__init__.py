"""Keys, what was done with them, and who did what."""
