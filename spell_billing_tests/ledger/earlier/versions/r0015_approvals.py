"""Add how many people must approve a month in review."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the column: one approval was enough for every review before."""
    op.add_column(
        "ledger_reviews", sa.Column("approvals_needed", sa.Integer, nullable=False, server_default="1")
    )
