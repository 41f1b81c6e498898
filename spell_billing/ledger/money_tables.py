"""The ledger's tables of money beside bills: payments, dunning, charges, credit notes, and grants."""

import sqlalchemy as sa

from spell_billing.ledger.column_types import (
    ACTOR,
    CURRENCY,
    GENERATION,
    INVOICE,
    MONTH,
    USER,
    WAY,
    WHY,
    BigId,
    UtcDateTime,
    key,
    metadata,
    optional,
    required,
)

payments = sa.Table(
    "ledger_payments",
    metadata,
    key("stripe_invoice_id", sa.Text, INVOICE),
    required("month", sa.String(7), MONTH),
    required("user_id", sa.Text, USER),
    required("generation", sa.Integer, GENERATION),
    required("status", sa.String(20), "Stripe's: `open`, `paid`, `uncollectible` or `void`."),
    required("attempts", sa.Integer, "Stripe's count, which a try under way raises too."),
    required("failed_attempts", sa.Integer, "How many of them are known to have failed."),
    optional("next_attempt_at", UtcDateTime, "When Stripe tries again; null when it does not."),
    required("amount_due_cents", sa.BigInteger, "What the invoice asks for."),
    required("amount_paid_cents", sa.BigInteger, "What was received for it."),
    optional("decline_code", sa.String(80), "Of the last failed attempt, as `insufficient_funds`."),
    optional("message", sa.Text, "What Stripe said of that attempt."),
    optional("hosted_invoice_url", sa.Text, "Stripe's page of the invoice."),
    optional("invoice_pdf", sa.Text, "Stripe's PDF of it."),
    required("as_of", UtcDateTime, "When Stripe said it."),
    required("way", sa.String(20), WAY),
    required(
        "moved_cents",
        sa.BigInteger,
        "Moved to the customer's next invoice; below zero: came from an earlier one.",
        server_default="0",
    ),
    required("from_balance_cents", sa.BigInteger, "Paid from the customer's balance.", server_default="0"),
    required("credited_cents", sa.BigInteger, "Taken off by credit notes.", server_default="0"),
    required("returned_outside_cents", sa.BigInteger, "Given back outside of Stripe.", server_default="0"),
    required("to_balance_cents", sa.BigInteger, "Given back to the customer's balance.", server_default="0"),
    sa.Index("ledger_payments_by_month", "month", "status"),
    sa.Index("ledger_payments_by_status", "status", "month"),
    comment="What is known of each invoice's payment: the newest that Stripe said.",
)

dunning = sa.Table(
    "ledger_dunning",
    metadata,
    key("stripe_invoice_id", sa.Text, INVOICE),
    key("step", sa.Integer, "Days since finalization."),
    required("asked_at", UtcDateTime, "When it was begun."),
    required(
        "outcome",
        sa.String(80),
        "`asked` from before the request until its answer is known; then as `paid` or `declined: "
        "expired_card`.",
    ),
    comment="Each step at which Stripe was asked to collect an open invoice again.",
)

charges = sa.Table(
    "ledger_charges",
    metadata,
    key("charge_id", sa.Text, "Stripe's, `ch_...`."),
    required("stripe_invoice_id", sa.Text, INVOICE),
    required("month", sa.String(7), MONTH),
    required("currency", sa.String(10), CURRENCY),
    required("amount_cents", sa.BigInteger, "What was charged."),
    required("refunded_cents", sa.BigInteger, "What was refunded of it."),
    required("disputed_cents", sa.BigInteger, "What the bank took back; 0 once a dispute is won."),
    optional("dispute", sa.String(40), "Stripe's status of the dispute; null without one."),
    required("as_of", UtcDateTime, "When it was read."),
    sa.Index("ledger_charges_by_invoice", "stripe_invoice_id"),
    sa.Index("ledger_charges_by_month", "month"),
    comment="Charges of our invoices of which money went back: refunded, or taken back in a dispute.",
)

credit_notes = sa.Table(
    "ledger_credit_notes",
    metadata,
    key("bill_id", BigId, "`ledger_invoices.id`.", autoincrement=False),
    key("number", sa.Integer, "Counts the bill's notes, from 1."),
    required("stripe_invoice_id", sa.Text, INVOICE),
    required("cents", sa.BigInteger, "How much."),
    required(
        "kind", sa.String(20), "`reduce` (what is due), `refund` (to the card) or `balance` (the customer's)."
    ),
    required("reason", sa.Text, WHY),
    required("attempt", sa.Integer, "The number of the idempotency key, from 1."),
    required("asked_at", UtcDateTime, "When it was written down."),
    optional("outcome", sa.String(20), "`issued` or `refused`; null until it is known."),
    optional("credit_note_id", sa.Text, "Stripe's, `cn_...`."),
    comment="Credit notes of `spell-billing credit`: written down before Stripe is asked.",
)

grants = sa.Table(
    "ledger_credits",
    metadata,
    key("grant_id", sa.String(64), "Names the grant."),
    key(
        "number",
        sa.Integer,
        "Entry 1 makes the grant; each further one, `revoked`, takes back what was left then.",
        autoincrement=False,
    ),
    required("at", UtcDateTime, "When it was entered."),
    required("actor", sa.Text, ACTOR),
    required("user_id", sa.Text, USER),
    required("kind", sa.String(20), "`granted` (promotional), `paid` (bought) or `revoked`."),
    required("currency", sa.String(10), CURRENCY),
    required("amount_cents", sa.BigInteger, "How much is granted, or revoked."),
    required("expires_on", sa.Date, "It pays for months that begin before this day."),
    required("reason", sa.Text, WHY),
    comment="Grants: what users have to pay later bills with. What bills used of it stands on their "
    "lines alone. Triggers refuse UPDATE and DELETE.",
)
