"""Alembic's scripts; `control.database.migrate` runs them."""
