"""The ledger's tables of what was sent to people, or is to be sent: alerts and mail."""

import sqlalchemy as sa

from spell_billing.ledger.column_types import BigId, UtcDateTime, metadata

alerts = sa.Table(
    "ledger_alerts",
    metadata,
    sa.Column("key", sa.String(200), primary_key=True),
    sa.Column("channel", sa.String(200), primary_key=True),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("month", sa.String(7)),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("sent_at", UtcDateTime, nullable=False),
    sa.Index("ledger_alerts_by_kind", "kind", "month"),
)
"""Each alert that went out on each channel. A key is sent once on a channel."""

reported_bills = sa.Table(
    "ledger_reported_bills",
    metadata,
    sa.Column("bill_id", BigId, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("reason", sa.String(40), nullable=False),
    sa.Column("reported_at", UtcDateTime, nullable=False),
)
"""Bills without an invoice that people were told of, with the state and reason they were told."""

outbox = sa.Table(
    "ledger_outbox",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(200), nullable=False),
    sa.Column("template", sa.String(40), nullable=False),
    sa.Column("month", sa.String(7), nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("next_try_at", UtcDateTime, nullable=False),
    sa.Column("sent_at", UtcDateTime),
    sa.Column("given_up_at", UtcDateTime),
    sa.Column("error", sa.Text),
    sa.UniqueConstraint("key", name="ledger_outbox_once"),
    sa.Index("ledger_outbox_waiting", "sent_at", "given_up_at", "next_try_at"),
)
"""Mail to users, each key once. `content` names invoice and attempt, as JSON; no address is kept.

Amounts, links and the address are read when a mail is sent. `error` of one that was given up begins with a
word of `GivenUp`.
"""
