"""The version of pushed weights that a fleet serves, and the switches that led to one."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_TABLES = ("activations", "active_model", "rollouts")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("version", sa.Integer(), server_default="0", nullable=False))
    for table in ("activations", "active_model"):
        op.add_column(table, sa.Column("version_label", sa.Text(), nullable=True))
    op.add_column("active_model", sa.Column("version_digest", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("active_model") as active:
        active.drop_column("version_digest")
    for table in ("activations", "active_model"):
        with op.batch_alter_table(table) as changed:
            changed.drop_column("version_label")
    for table in _TABLES:
        with op.batch_alter_table(table) as changed:
            changed.drop_column("version")
