"""Keep what credit notes gave back to the customer's balance at Stripe."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the column, with what our own credit notes gave; the next reading of an invoice has all of them."""
    amount = sa.Column("to_balance_cents", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("ledger_payments", amount)
    op.execute(
        "UPDATE ledger_payments SET to_balance_cents = (SELECT COALESCE(SUM(cents), 0)"
        " FROM ledger_credit_notes AS note WHERE note.stripe_invoice_id = ledger_payments.stripe_invoice_id"
        " AND note.kind = 'balance' AND note.outcome = 'issued')"
    )
