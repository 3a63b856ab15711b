"""Jobs: the request that made them, indexes to list them by; the chosen power profile."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("request_id", sa.Text(), nullable=True))
    op.create_index("ix_jobs_type_created_at", "jobs", ["type", "created_at"])
    op.create_index("ix_jobs_status_created_at", "jobs", ["status", "created_at"])
    op.create_table(
        "power_choice",
        sa.Column("singleton", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("chosen_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("singleton = 1", name="ck_power_choice_singleton"),
        sa.PrimaryKeyConstraint("singleton", name="pk_power_choice"),
    )


def downgrade() -> None:
    op.drop_table("power_choice")
    op.drop_index("ix_jobs_status_created_at", "jobs")
    op.drop_index("ix_jobs_type_created_at", "jobs")
    op.drop_column("jobs", "request_id")
