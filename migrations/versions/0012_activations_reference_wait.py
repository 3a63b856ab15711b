"""Activations: how long the switch waited for its model's reference."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("activations", sa.Column("reference_wait_ms", sa.Double(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("activations") as activations:
        activations.drop_column("reference_wait_ms")
