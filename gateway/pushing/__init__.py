"""Weights straight from a trainer: the routes by which they come in."""
