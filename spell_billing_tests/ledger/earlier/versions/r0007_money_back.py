"""Keep what a payment moved to or from the customer's balance, what was credited, and what went back."""

import sqlalchemy as sa
from alembic import op

from spell_billing.ledger.column_types import BigId, UtcDateTime

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns and the table; what is known so far stays, and the next reading fills the rest."""
    for name in ("moved_cents", "from_balance_cents", "credited_cents", "returned_outside_cents"):
        op.add_column("ledger_payments", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "ledger_charges",
        sa.Column("charge_id", sa.Text, primary_key=True),
        sa.Column("stripe_invoice_id", sa.Text, nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("currency", sa.String(10), nullable=False),
        sa.Column("amount_cents", sa.BigInteger, nullable=False),
        sa.Column("refunded_cents", sa.BigInteger, nullable=False),
        sa.Column("disputed_cents", sa.BigInteger, nullable=False),
        sa.Column("dispute", sa.String(40)),
        sa.Column("as_of", UtcDateTime, nullable=False),
    )
    op.create_table(
        "ledger_credit_notes",
        sa.Column("bill_id", BigId, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("stripe_invoice_id", sa.Text, nullable=False),
        sa.Column("cents", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("asked_at", UtcDateTime, nullable=False),
        sa.Column("outcome", sa.String(20)),
        sa.Column("credit_note_id", sa.Text),
    )
    op.create_index("ledger_charges_by_invoice", "ledger_charges", ["stripe_invoice_id"])
    op.create_index("ledger_charges_by_month", "ledger_charges", ["month"])
