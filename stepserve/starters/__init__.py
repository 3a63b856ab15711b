"""Starters: programs that have an existing engine start the members of a fleet on other machines."""
