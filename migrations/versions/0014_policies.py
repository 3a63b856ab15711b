"""Policies, what they made of which model, and which registered models they have still to look at."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_policies")),
    )
    op.create_table(
        "policy_runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('open', 'over')", name=op.f("ck_policy_runs_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policy_runs")),
        sa.UniqueConstraint(
            "policy", "model_id", "model_digest", name=op.f("uq_policy_runs_policy_model_id_model_digest")
        ),
    )
    op.create_index(op.f("ix_policy_runs_state_due_at"), "policy_runs", ["state", "due_at"])
    op.create_index(op.f("ix_policy_runs_policy_created_at"), "policy_runs", ["policy", "created_at"])
    op.add_column("models", sa.Column("policies_due", sa.Boolean(), nullable=True))
    op.create_index(op.f("ix_models_policies_due"), "models", ["policies_due"])


def downgrade() -> None:
    op.drop_index(op.f("ix_models_policies_due"), "models")
    with op.batch_alter_table("models") as changed:
        changed.drop_column("policies_due")
    op.drop_table("policy_runs")
    op.drop_table("policies")
