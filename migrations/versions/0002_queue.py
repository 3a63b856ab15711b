"""Jobs: priorities, back-off, fingerprints, attempts, and the loan of the engine."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("priority", sa.Integer(), server_default="0", nullable=False))
        jobs.add_column(sa.Column("when_inactive", sa.Text(), server_default="wait", nullable=False))
        jobs.add_column(sa.Column("not_before", MOMENT, nullable=True))
        jobs.add_column(sa.Column("setbacks", sa.Integer(), server_default="0", nullable=False))
        jobs.add_column(sa.Column("fingerprint", sa.Text(), nullable=True))
    op.drop_index("ix_jobs_status_model_id_created_at", "jobs")
    op.create_index(
        "ix_jobs_status_model_id_priority_created_at", "jobs", ["status", "model_id", "priority", "created_at"]
    )
    op.create_index("ix_jobs_fingerprint", "jobs", ["fingerprint"])

    op.create_table(
        "job_attempts",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_attempts_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt", name="pk_job_attempts"),
    )

    op.create_table(
        "engine_loan",
        sa.Column("singleton", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("return_to", sa.Text(), nullable=True),
        sa.Column("since", MOMENT, nullable=False),
        sa.CheckConstraint("singleton = 1", name="ck_engine_loan_singleton"),
        sa.PrimaryKeyConstraint("singleton", name="pk_engine_loan"),
    )


def downgrade() -> None:
    op.drop_table("engine_loan")
    op.drop_table("job_attempts")
    op.drop_index("ix_jobs_fingerprint", "jobs")
    op.drop_index("ix_jobs_status_model_id_priority_created_at", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        for column in ("fingerprint", "setbacks", "not_before", "when_inactive", "priority"):
            jobs.drop_column(column)
    op.create_index("ix_jobs_status_model_id_created_at", "jobs", ["status", "model_id", "created_at"])
