"""Shards of training examples: their numbers, and who has claimed them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "shards",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("published_at", MOMENT, nullable=True),
        sa.Column("claim_id", sa.Text(), nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("claimed_until", MOMENT, nullable=True),
        sa.Column("claims", sa.Integer(), server_default="0", nullable=False),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.Column("acknowledged_at", MOMENT, nullable=True),
        sa.CheckConstraint("state IN ('allotted', 'staged', 'published')", name="ck_shards_state"),
        sa.PrimaryKeyConstraint("name", name="pk_shards"),
        sa.UniqueConstraint("day", "number", name="uq_shards_day_number"),
        sa.UniqueConstraint("job_id", "ordinal", name="uq_shards_job_id_ordinal"),
    )
    op.create_index(
        "ix_shards_state_acknowledged_at_day_number", "shards", ["state", "acknowledged_at", "day", "number"]
    )


def downgrade() -> None:
    op.drop_index("ix_shards_state_acknowledged_at_day_number", "shards")
    op.drop_table("shards")
