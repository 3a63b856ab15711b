"""Weights that a trainer pushes: where they lie before an engine takes them, whether they are whole, which version."""
