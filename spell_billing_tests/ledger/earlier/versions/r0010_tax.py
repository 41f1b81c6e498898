"""Add the tax that Stripe computed on an invoice, beside its total."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column; null where no tax was computed."""
    op.add_column("ledger_invoices", sa.Column("tax_cents", sa.BigInteger))
