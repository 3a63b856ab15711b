"""History: what was served and measured, a row a minute."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "history_minutes",
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("at", name=op.f("pk_history_minutes")),
    )


def downgrade() -> None:
    op.drop_table("history_minutes")
