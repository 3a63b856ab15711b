"""Filters of what is asked and answered: the protocol, what applies it, and the one that comes along."""
