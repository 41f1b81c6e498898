"""The ledger's tables of money beside bills: payments, dunning, charges, credit notes, and grants."""

import sqlalchemy as sa

from spell_billing.ledger.column_types import BigId, UtcDateTime, metadata

payments = sa.Table(
    "ledger_payments",
    metadata,
    sa.Column("stripe_invoice_id", sa.Text, primary_key=True),
    sa.Column("month", sa.String(7), nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("failed_attempts", sa.Integer, nullable=False),
    sa.Column("next_attempt_at", UtcDateTime),
    sa.Column("amount_due_cents", sa.BigInteger, nullable=False),
    sa.Column("amount_paid_cents", sa.BigInteger, nullable=False),
    sa.Column("decline_code", sa.String(80)),
    sa.Column("message", sa.Text),
    sa.Column("hosted_invoice_url", sa.Text),
    sa.Column("invoice_pdf", sa.Text),
    sa.Column("as_of", UtcDateTime, nullable=False),
    sa.Column("way", sa.String(20), nullable=False),
    sa.Column("moved_cents", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("from_balance_cents", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("credited_cents", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("returned_outside_cents", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ledger_payments_by_month", "month", "status"),
    sa.Index("ledger_payments_by_status", "status", "month"),
)
"""What is known of each invoice's payment, the newest that Stripe said. `status` is Stripe's word.

`attempts` is Stripe's count, which a try under way raises too; `failed_attempts` of them are known to have
failed. `decline_code` and `message` belong to the last failed one. `as_of` is when Stripe said it, `way` how
it came to us. `moved_cents` was moved to the customer's next invoice (below zero: came from an earlier one),
`from_balance_cents` was paid from the customer's balance, `credited_cents` taken off by credit notes, and
`returned_outside_cents` given back outside of Stripe.
"""

dunning = sa.Table(
    "ledger_dunning",
    metadata,
    sa.Column("stripe_invoice_id", sa.Text, primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True),
    sa.Column("asked_at", UtcDateTime, nullable=False),
    sa.Column("outcome", sa.String(80), nullable=False),
)
"""Each step at which Stripe was asked to collect an open invoice again.

`step` counts days since finalization. `outcome` is `asked` from before the request until its answer is known.
"""

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
