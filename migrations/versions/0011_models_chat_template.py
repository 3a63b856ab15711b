"""Models: the chat template that they were registered with, and whether their files bring one."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("chat_template", sa.Text(), nullable=True))
    op.add_column("models", sa.Column("has_template", sa.Boolean(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("models") as models:
        models.drop_column("has_template")
        models.drop_column("chat_template")
