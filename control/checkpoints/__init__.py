"""Checkpoints: files on disk. Looks at them and never changes anything."""
