"""The ledger's tables; importing this module makes all of them known. Migrations are held equal by a test."""

import sqlalchemy as sa

from spell_billing.core.outcomes import State
from spell_billing.ledger import money_tables  # noqa: F401 - it enters its tables
from spell_billing.ledger.column_types import (
    ACTOR,
    CURRENCY,
    GENERATION,
    INVOICE,
    MONTH,
    REQUEST,
    RUN,
    USER,
    WAY,
    WHY,
    ExactDecimal,
    UtcDateTime,
    key,
    metadata,
    number,
    optional,
    required,
)

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
    number(),
    required("month", sa.String(7), MONTH),
    required("user_id", sa.Text, USER),
    required("generation", sa.Integer, GENERATION),
    required("state", sa.String(20), f"One of {', '.join(f'`{each}`' for each in State)}."),
    optional("reason", sa.String(40), "Why there is no invoice, as a code."),
    optional("message", sa.Text, "What Stripe or the run said about the reason."),
    optional("stripe_customer_id", sa.Text, "Who pays, as `billing_accounts` had it."),
    required("currency", sa.String(10), CURRENCY),
    optional("plan_id", sa.Text, "The account's plan when the bill was drafted."),
    required("calls", sa.BigInteger, "Calls of the month."),
    required("usage_cents", ExactDecimal, "Exact cost of the month's usage, before plan and rounding."),
    required("total_cents", sa.BigInteger, "Charged, before tax and coupon; below zero: a credit."),
    required("included_cents", sa.BigInteger, "The plan's allowance."),
    required("covered_cents", sa.BigInteger, "The part of it that usage took."),
    required("late_cents", sa.BigInteger, "Charged for usage of earlier months that came late or changed."),
    required("credit_applied_cents", sa.BigInteger, "Earlier credit used up; below zero: a charge added."),
    required("carried_cents", sa.BigInteger, "Credit left for later bills; below zero: a charge left."),
    required("late_lines", sa.Integer, "Lines that later drafts must read, such as late usage."),
    required("unbilled_calls", sa.BigInteger, "Left out by an adopted invoice; the next month bills them."),
    required("unbilled_usage_cents", ExactDecimal, "Their exact cost."),
    required("description", sa.Text, "The invoice's text."),
    required("lines", sa.Text, "JSON list of the invoice's lines, and those that only the ledger has."),
    required("lines_hash", sa.String(64), "SHA-256 of customer, currency, description, lines and terms."),
    optional("stripe_invoice_id", sa.Text, INVOICE),
    optional("stripe_request_id", sa.Text, REQUEST),
    required("request_attempt", sa.Integer, "In Stripe's idempotency keys, from 1; rises with a new draft."),
    required("run_id", sa.Text, RUN),
    required("created_at", UtcDateTime, "When the bill was drafted."),
    required("updated_at", UtcDateTime, "When it last changed."),
    optional("finalized_at", UtcDateTime, "When Stripe finalized the invoice."),
    optional("terms", sa.Text, "JSON: how it is collected, texts beside the lines; null: as usual."),
    optional("tax_cents", sa.BigInteger, "Stripe's tax on top of the total; null: none computed."),
    optional("discount_cents", sa.BigInteger, "Taken off the total by a coupon; null: none may apply."),
    optional("rating", sa.Text, "JSON: how usage is rated beside the allowance; null: by nothing else."),
    required(
        "plan_cents",
        sa.BigInteger,
        "Added and taken off by fees, a minimum and discounts.",
        server_default="0",
    ),
    sa.UniqueConstraint("month", "user_id", "generation", name="ledger_invoices_one_per_bill"),
    # It holds what metrics sum, so that a scrape does not read the rows.
    sa.Index("ledger_invoices_by_state", "month", "state", "id", "currency", "total_cents"),
    # Partial: 100,000 new drafts, which have neither, are not entered into them.
    _partial_index("ledger_invoices_by_stripe_id", "stripe_invoice_id", "stripe_invoice_id IS NOT NULL"),
    _partial_index("ledger_invoices_by_finalized", "finalized_at", "finalized_at IS NOT NULL"),
    _partial_index("ledger_invoices_left_something", "month", **LEFT_SOMETHING),
    sa.Index(
        *("ledger_invoices_replacing", "month", "user_id", "generation"),
        postgresql_where=sa.text("generation > 1"),
        sqlite_where=sa.text("generation > 1"),
    ),
    comment="One row per user, month and generation: the bill, and how far it got at Stripe. Rounded "
    "usage - covered + plan + late - credit applied = total, but for lines that grants, small "
    "amounts and edits at Stripe add.",
)

months = sa.Table(
    "ledger_months",
    metadata,
    key("month", sa.String(7), MONTH),
    required("usage_version", sa.Text, "Of the frozen usage; pinned once billing has started."),
    required("users", sa.BigInteger, "Users with a bill when the month was drafted."),
    required("calls", sa.BigInteger, "Calls in the frozen usage."),
    required("usage_cents", ExactDecimal, "Exact cost of the frozen usage, all currencies added."),
    required("drafted_at", UtcDateTime, "When the drafts were last made."),
    optional("billing_started_at", UtcDateTime, "First invoice about to be made: usage and drafts frozen."),
    optional("billed_at", UtcDateTime, "All were invoiced or rightly skipped; null again after a void."),
    comment="One row per drafted month.",
)

audit = sa.Table(
    "ledger_audit",
    metadata,
    number(),
    required("at", UtcDateTime, "When it was done."),
    required("actor", sa.Text, ACTOR),
    required("run_id", sa.Text, RUN),
    required("month", sa.String(7), MONTH),
    optional("user_id", sa.Text, "The platform's user; null for what is about the whole month."),
    optional("generation", sa.Integer, "Of the bill; null where the entry is about none."),
    required("action", sa.String(40), "As `drafted`, `finalized`, `voided`, `held`, `money_back`."),
    optional("from_state", sa.String(20), "The bill's before."),
    optional("to_state", sa.String(20), "The bill's since."),
    optional("stripe_invoice_id", sa.Text, INVOICE),
    optional("stripe_request_id", sa.Text, REQUEST),
    optional("detail", sa.Text, "More about it, in words or as JSON."),
    optional("amount_cents", sa.BigInteger, "Given back by `money_back`; null for any other action."),
    sa.Index("ledger_audit_by_user", "month", "user_id"),
    comment="Who did what to which bill, when and in which run. Triggers refuse UPDATE and DELETE.",
)

events = sa.Table(
    "ledger_events",
    metadata,
    key("event_id", sa.Text, "Stripe's, `evt_...`."),
    required("type", sa.String(80), "Stripe's, as `invoice.paid`."),
    required("created_at", UtcDateTime, "By Stripe's clock."),
    required("received_at", UtcDateTime, "When it first came in."),
    required("way", sa.String(20), WAY),
    required("content", sa.Text, "The few fields of the invoice that are used, as JSON."),
    optional("handled_at", UtcDateTime, "Null while it waits."),
    optional(
        "outcome", sa.String(40), "`handled`, `ignored_type`, `not_ours`, `draft`, `to_look_at`, `set_aside`."
    ),
    sa.Index("ledger_events_waiting", "handled_at", "created_at"),
    comment="Stripe's events, each once, whichever way it came in; handled ones are kept for a time.",
)

cursors = sa.Table(
    "ledger_cursors",
    metadata,
    key("name", sa.String(40), "Of what is read."),
    required("value", sa.Text, "The place that was reached."),
    required("moved_at", UtcDateTime, "When it was."),
    comment="How far something that comes in order was read, and notes of what was begun.",
)

runs = sa.Table(
    "ledger_runs",
    metadata,
    number(),
    required("run_id", sa.Text, RUN),
    required("month", sa.String(7), MONTH),
    required("started_at", UtcDateTime, "When it began."),
    required("ended_at", UtcDateTime, "When it ended."),
    required(
        "result",
        sa.String(20),
        "`done`, `users_left` (some need a person), `in_review` (the month must be approved), "
        "`unfinished` (some are to be tried again), `stopped` (nobody could be billed for now) or "
        "`refused` (nobody can be billed until a person acts).",
    ),
    required("invoiced", sa.BigInteger, "Users who got their invoice in the run."),
    required("unfinished", sa.BigInteger, "Users whose outcome at Stripe is unknown until the next run."),
    required("limited", sa.BigInteger, "Requests that Stripe answered with 429."),
    required("requests", sa.Text, "JSON by endpoint at Stripe: count, seconds and latency buckets."),
    sa.Index("ledger_runs_by_month", "month", "id"),
    comment="Each billing run of a month, and how it ended.",
)

reviews = sa.Table(
    "ledger_reviews",
    metadata,
    key("month", sa.String(7), MONTH),
    required("drafts_hash", sa.String(64), "Of the drafts reviewed; an approval holds for these alone."),
    required("findings", sa.Text, "JSON list; empty when nothing is to be approved."),
    required("reviewed_at", UtcDateTime, "When it was."),
    required("approvals_needed", sa.Integer, "By how many people, as set at the time.", server_default="1"),
    comment="What the review of a month's newest drafts found.",
)

decisions = sa.Table(
    "ledger_decisions",
    metadata,
    number(),
    required("at", UtcDateTime, "When it was decided."),
    required("actor", sa.Text, ACTOR),
    required("month", sa.String(7), MONTH),
    optional("user_id", sa.Text, "The platform's user; null for what is about the month."),
    required(
        "kind",
        sa.String(20),
        "`approved` or `agreed` (needs another person's approval as well) of a month; `held`, `released`, "
        "`credit_settled` (a person dealt with the credit) or `given_back_settled` (a person said what was "
        "given back of the invoice for) of a user.",
    ),
    optional(
        "content_hash",
        sa.String(64),
        "What it holds for: a review's `drafts_hash`, a released bill's `lines_hash`, a settled "
        "credit as `eur:100`, the answer on what was given back.",
    ),
    required("reason", sa.Text, WHY),
    sa.Index("ledger_decisions_by_month", "month", "user_id"),
    comment="What people decided about a month, or one user's bill in it; the newest counts.",
)

moves = sa.Table(
    "ledger_moves",
    metadata,
    number(),
    required("at", UtcDateTime, "When it was recorded."),
    required("actor", sa.Text, ACTOR),
    required("from_user", sa.Text, "Who had it."),
    required("to_user", sa.Text, "Who has it since."),
    required("reason", sa.Text, WHY),
    comment="Usage that moved from one user to another (a new id, a merger): late usage of both is netted.",
)

stripe_account = sa.Table(
    "ledger_stripe_account",
    metadata,
    key("mode", sa.String(4), "`test` or `live`."),
    optional("account_id", sa.Text, "Stripe's, `acct_...`; null where the key may not read its account."),
    required("recorded_at", UtcDateTime, "When it was first billed."),
    comment="The one Stripe account that this ledger bills.",
)

outbox = sa.Table(
    "ledger_outbox",
    metadata,
    number(),
    required("key", sa.String(200), "What the message is about: with the channel it makes it unique."),
    required(
        "channel",
        sa.String(200),
        "`mail`, `alerts`, the name of one of ALERT_URLS, or `event:` and the fingerprint of one "
        "of EVENT_URLS.",
    ),
    required("kind", sa.String(40), "Of alert, mail or event, as `month_unbilled`."),
    optional("month", sa.String(7), "The month that it is about, if any."),
    optional("user_id", sa.Text, "The platform's user that it is about, if any."),
    required(
        "payload", sa.Text, "JSON: an alert's title and body; a mail's invoice and attempt; an event as sent."
    ),
    required("created_at", UtcDateTime, "When it was put here."),
    required("next_try_at", UtcDateTime, "When it is due."),
    required("tries", sa.Integer, "How often it was tried."),
    optional("sent_at", UtcDateTime, "When the channel took it."),
    optional("given_up_at", UtcDateTime, "When it was given up."),
    optional("error", sa.Text, "What was wrong last; of a mail given up it begins with the reason."),
    sa.UniqueConstraint("key", "channel", name="ledger_outbox_once"),
    sa.Index("ledger_outbox_waiting", "channel", "sent_at", "given_up_at", "next_try_at"),
    _partial_index("ledger_outbox_alerts", "kind", SENT_ALERTS),
    comment="Alerts, mail and events, each once on its channel. An alert on `alerts` waits to be put "
    "on each of the channels; what it is about is kept there as sent, so that it is alerted "
    "on once.",
)
