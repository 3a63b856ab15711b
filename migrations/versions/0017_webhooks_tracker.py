"""Webhooks that are experiment trackers, and what they were told."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("webhooks", sa.Column("tracker", sa.Text(), nullable=True))
    op.add_column("webhooks", sa.Column("options", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("webhooks") as changed:
        changed.drop_column("options")
        changed.drop_column("tracker")
