"""Alembic's scripts; `control.migrate` runs them."""
