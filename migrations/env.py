"""Alembic's environment: the caller brings the connection, so the driver is the one the program uses."""

from alembic import context

from control.database.metadata import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
