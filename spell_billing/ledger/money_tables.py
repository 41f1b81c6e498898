"""The ledger's tables of money beside invoices: charges, credit notes, grants that pay for bills."""

import sqlalchemy as sa

from spell_billing.ledger.column_types import BigId, UtcDateTime, metadata

charges = sa.Table(
    "ledger_charges",
    metadata,
    sa.Column("charge_id", sa.Text, primary_key=True),
    sa.Column("stripe_invoice_id", sa.Text, nullable=False),
    sa.Column("month", sa.String(7), nullable=False),
    sa.Column("currency", sa.String(10), nullable=False),
    sa.Column("amount_cents", sa.BigInteger, nullable=False),
    sa.Column("refunded_cents", sa.BigInteger, nullable=False),
    sa.Column("disputed_cents", sa.BigInteger, nullable=False),
    sa.Column("dispute", sa.String(40)),
    sa.Column("as_of", UtcDateTime, nullable=False),
    sa.Index("ledger_charges_by_invoice", "stripe_invoice_id"),
    sa.Index("ledger_charges_by_month", "month"),
)
"""Charges of our invoices of which money went back: refunded, or taken back by the bank in a dispute.

`dispute` is Stripe's status of the dispute; what a won one took is back, and `disputed_cents` is 0 then.
"""

credit_notes = sa.Table(
    "ledger_credit_notes",
    metadata,
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
"""Credit notes issued with `spell-billing credit`: written down before Stripe is asked.

`kind`: `reduce` (what is due), `refund` (to the card) or `balance` (the customer's). `outcome` is null until
it is known: `issued` or `refused`. `attempt` is the number of the idempotency key, from 1.
"""

grants = sa.Table(
    "ledger_credits",
    metadata,
    sa.Column("grant_id", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("currency", sa.String(10), nullable=False),
    sa.Column("amount_cents", sa.BigInteger, nullable=False),
    sa.Column("expires_on", sa.Date, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
"""What users have to pay later bills with. Triggers refuse UPDATE and DELETE.

Entry 1 makes a grant: `granted` (promotional) or `paid` (bought). Each further one, `revoked`, takes back
what was left then. A grant pays for months that begin before `expires_on`. What bills used of it stands on
their lines alone.
"""
