"""Columns that make an example out of each other: how they are written down, their order, and how a row is made."""
