"""Traffic that is kept, feedback on it, and who consented to that."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("keep_traffic", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "traffic_consents",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("keep", sa.Boolean(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_traffic_consents")),
    )
    op.create_index(op.f("ix_traffic_consents_key_id_id"), "traffic_consents", ["key_id", "id"])
    op.create_table(
        "traffic",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("prompt_sha", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("rating", sa.Integer(), nullable=True),
        sa.Column("correction", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("rated_by", sa.Text(), nullable=True),
        sa.Column("rated_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("owner", "request_id", name=op.f("pk_traffic")),
    )
    op.create_index(op.f("ix_traffic_request_id"), "traffic", ["request_id"])
    op.create_index(op.f("ix_traffic_owner_answered_at"), "traffic", ["owner", "answered_at"])
    op.create_index(op.f("ix_traffic_answered_at"), "traffic", ["answered_at"])
    op.create_index(op.f("ix_traffic_prompt_sha"), "traffic", ["prompt_sha"])


def downgrade() -> None:
    op.drop_table("traffic")
    op.drop_table("traffic_consents")
    with op.batch_alter_table("api_keys") as changed:
        changed.drop_column("keep_traffic")
