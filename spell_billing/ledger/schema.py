"""The ledger's tables; importing this module makes all of them known. Migrations are held equal by a test."""

import sqlalchemy as sa

from spell_billing.ledger import money_tables  # noqa: F401 - it enters its tables
from spell_billing.ledger.column_types import BigId, ExactDecimal, UtcDateTime, metadata

_LEFT = (
    "(unbilled_calls <> 0 OR unbilled_usage_cents <> {nothing} OR late_lines > 0 "
    "OR carried_cents > 0 OR credit_applied_cents > 0)"
)
LEFT_SOMETHING = {"postgresql": _LEFT.format(nothing="0"), "sqlite": _LEFT.format(nothing="'0'")}
"""By database, the condition for bills that other months' drafts must know of: few of millions."""

SENT_ALERTS = (
    "sent_at IS NOT NULL AND channel NOT IN ('alerts', 'mail') AND substr(channel, 1, 6) <> 'event:'"
)
"""The condition for alerts that went out, each once on each channel."""


def _partial_index(name: str, column: str, postgresql: str, sqlite: str | None = None) -> sa.Index:
    sqlite_where = sa.text(sqlite or postgresql)
    return sa.Index(name, column, postgresql_where=sa.text(postgresql), sqlite_where=sqlite_where)


invoices = sa.Table(
    "ledger_invoices",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("month", sa.String(7), nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("reason", sa.String(40)),
    sa.Column("message", sa.Text),
    sa.Column("stripe_customer_id", sa.Text),
    sa.Column("currency", sa.String(10), nullable=False),
    sa.Column("plan_id", sa.Text),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("usage_cents", ExactDecimal, nullable=False),
    sa.Column("total_cents", sa.BigInteger, nullable=False),
    sa.Column("included_cents", sa.BigInteger, nullable=False),
    sa.Column("covered_cents", sa.BigInteger, nullable=False),
    sa.Column("late_cents", sa.BigInteger, nullable=False),
    sa.Column("credit_applied_cents", sa.BigInteger, nullable=False),
    sa.Column("carried_cents", sa.BigInteger, nullable=False),
    sa.Column("late_lines", sa.Integer, nullable=False),
    sa.Column("unbilled_calls", sa.BigInteger, nullable=False),
    sa.Column("unbilled_usage_cents", ExactDecimal, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("lines", sa.Text, nullable=False),
    sa.Column("lines_hash", sa.String(64), nullable=False),
    sa.Column("stripe_invoice_id", sa.Text),
    sa.Column("stripe_request_id", sa.Text),
    sa.Column("request_attempt", sa.Integer, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("finalized_at", UtcDateTime),
    sa.Column("terms", sa.Text),
    sa.Column("tax_cents", sa.BigInteger),
    sa.Column("discount_cents", sa.BigInteger),
    sa.Column("rating", sa.Text),
    sa.Column("plan_cents", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("month", "user_id", "generation", name="ledger_invoices_one_per_bill"),
    sa.Index("ledger_invoices_by_state", "month", "state", "id", "currency", "total_cents"),
    # Partial: 100,000 new drafts, which have neither, are not entered into them.
    _partial_index("ledger_invoices_by_stripe_id", "stripe_invoice_id", "stripe_invoice_id IS NOT NULL"),
    _partial_index("ledger_invoices_by_finalized", "finalized_at", "finalized_at IS NOT NULL"),
    _partial_index("ledger_invoices_left_something", "month", **LEFT_SOMETHING),
)
"""One row per user, month and generation.

`included_cents` is the plan's allowance, `covered_cents` the part of it that the usage took, `late_cents`
what late lines charge, `plan_cents` what plans and discounts add and take off beside the allowance:
rounded usage - covered + plan + late - credit applied = total.
`rating`: how the usage is rated beside the allowance, as JSON; null where nothing else plays a part.
`unbilled_calls` and `unbilled_usage_cents`: usage of the month that the invoice does not hold, because an
invoice made earlier was adopted; the next month's draft bills it as late usage.
`terms`: how the bill is collected and what its invoice says beside the lines, as JSON; null for the usual.
`tax_cents`: what Stripe put on top of the total; null where it computed no tax.
`discount_cents`: what the customer's coupon took off the total; null where none may apply.
The index by state holds what metrics sum, so that a scrape does not read the rows.
"""

months = sa.Table(
    "ledger_months",
    metadata,
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("usage_version", sa.Text, nullable=False),
    sa.Column("users", sa.BigInteger, nullable=False),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("usage_cents", ExactDecimal, nullable=False),
    sa.Column("drafted_at", UtcDateTime, nullable=False),
    sa.Column("billing_started_at", UtcDateTime),
    sa.Column("billed_at", UtcDateTime),
)
"""One row per drafted month. From `billing_started_at` on, `usage_version` is pinned."""

audit = sa.Table(
    "ledger_audit",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("month", sa.String(7), nullable=False),
    sa.Column("user_id", sa.Text),
    sa.Column("generation", sa.Integer),
    sa.Column("action", sa.String(40), nullable=False),
    sa.Column("from_state", sa.String(20)),
    sa.Column("to_state", sa.String(20)),
    sa.Column("stripe_invoice_id", sa.Text),
    sa.Column("stripe_request_id", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Column("amount_cents", sa.BigInteger),
    sa.Index("ledger_audit_by_user", "month", "user_id"),
)
"""Who did what to which bill, when and in which run. Triggers refuse UPDATE and DELETE.

`amount_cents`, in minor units of the bill's currency: what `money_back` gave back; null for all else.
"""

events = sa.Table(
    "ledger_events",
    metadata,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("type", sa.String(80), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("received_at", UtcDateTime, nullable=False),
    sa.Column("way", sa.String(20), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("handled_at", UtcDateTime),
    sa.Column("outcome", sa.String(40)),
    sa.Index("ledger_events_waiting", "handled_at", "created_at"),
)
"""Stripe's events, each once, whichever way it came in. `content`: the few fields of the invoice we use."""

cursors = sa.Table(
    "ledger_cursors",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("moved_at", UtcDateTime, nullable=False),
)
"""How far something that comes in order was read."""

runs = sa.Table(
    "ledger_runs",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("month", sa.String(7), nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime, nullable=False),
    sa.Column("result", sa.String(20), nullable=False),
    sa.Column("invoiced", sa.BigInteger, nullable=False),
    sa.Column("unfinished", sa.BigInteger, nullable=False),
    sa.Column("limited", sa.BigInteger, nullable=False),
    sa.Column("requests", sa.Text, nullable=False),
    sa.Index("ledger_runs_by_month", "month", "id"),
)
"""Each billing run of a month, and how it ended.

`result`: `done`, `users_left` (some need a person), `unfinished` (some are to be tried again), `stopped`
(nobody could be billed for now) or `refused` (nobody can be billed until a person acts). `requests`: JSON by
endpoint: count, seconds and latency buckets.
"""

reviews = sa.Table(
    "ledger_reviews",
    metadata,
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("drafts_hash", sa.String(64), nullable=False),
    sa.Column("findings", sa.Text, nullable=False),
    sa.Column("reviewed_at", UtcDateTime, nullable=False),
    sa.Column("approvals_needed", sa.Integer, nullable=False, server_default="1"),
)
"""What the review of a month's newest drafts found, as a JSON list; empty when nothing is to be approved.

`drafts_hash` covers each user's currency, total and lines: an approval holds for these drafts alone.
`approvals_needed`: by how many people, as the setting was when they were reviewed.
"""

decisions = sa.Table(
    "ledger_decisions",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("month", sa.String(7), nullable=False),
    sa.Column("user_id", sa.Text),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("content_hash", sa.String(64)),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("ledger_decisions_by_month", "month", "user_id"),
)
"""What people decided about a month (`user_id` null) or one user's bill in it; the newest counts.

`kind`: `approved` (of a month; `content_hash` is the reviewed `drafts_hash`), `agreed` (the same of a month
that needs the approval of more people), `held` or `released` (of a
user; `content_hash` of a release is the bill's `lines_hash`), `credit_settled` (a person dealt with a user's
credit; `content_hash` is its currency and amount, as `eur:100`), `given_back_settled` (a person said what was
given back of the month's invoice for: `content_hash` is an `Answer` of `ledger/given_back.py`).
"""

moves = sa.Table(
    "ledger_moves",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("from_user", sa.Text, nullable=False),
    sa.Column("to_user", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
"""Usage that moved from one user to another (a new id, a merger): late usage of both is netted."""

stripe_account = sa.Table(
    "ledger_stripe_account",
    metadata,
    sa.Column("mode", sa.String(4), primary_key=True),
    sa.Column("account_id", sa.Text),
    sa.Column("recorded_at", UtcDateTime, nullable=False),
)
"""The one Stripe account that this ledger bills. `mode` is `test` or `live`.

`account_id` is null where the key may not read its account.
"""

outbox = sa.Table(
    "ledger_outbox",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(200), nullable=False),
    sa.Column("channel", sa.String(200), nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("month", sa.String(7)),
    sa.Column("user_id", sa.Text),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("next_try_at", UtcDateTime, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("sent_at", UtcDateTime),
    sa.Column("given_up_at", UtcDateTime),
    sa.Column("error", sa.Text),
    sa.UniqueConstraint("key", "channel", name="ledger_outbox_once"),
    sa.Index("ledger_outbox_waiting", "channel", "sent_at", "given_up_at", "next_try_at"),
    _partial_index("ledger_outbox_alerts", "kind", SENT_ALERTS),
)
"""Each message once on its channel. `channel`: `mail`, `alerts`, the name of one of ALERT_URLS,
or `event:` and the fingerprint of one of EVENT_URLS.

An alert on `alerts` waits to be put on each of the channels; what an alert is about is kept there too, as
sent, so that it is alerted on once. `payload` is JSON: an alert's title and body; a mail's invoice and
attempt; an event as it is sent. Amounts, links and the address are read when a mail is sent. `error` of a
mail that was given up begins with a word of `GivenUp`.
"""
