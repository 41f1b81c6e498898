"""Add what plans and discounts make of a bill."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the columns: no bill before had a plan with more than an allowance."""
    op.add_column("ledger_invoices", sa.Column("rating", sa.Text))
    op.add_column(
        "ledger_invoices", sa.Column("plan_cents", sa.BigInteger, nullable=False, server_default="0")
    )
