"""Add what a customer's coupon took off an invoice, beside its total."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column; null where no coupon may apply."""
    op.add_column("ledger_invoices", sa.Column("discount_cents", sa.BigInteger))
