"""The ledger's outbox: the table of what was sent, or is to be sent, to operators, users and the platform."""

import sqlalchemy as sa

from spell_billing.ledger.column_types import BigId, UtcDateTime, metadata

SENT_ALERTS = sa.text(
    "sent_at IS NOT NULL AND channel NOT IN ('alerts', 'mail') AND substr(channel, 1, 6) <> 'event:'"
)
"""The condition for alerts that went out, each once on each channel."""

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
    sa.Index("ledger_outbox_alerts", "kind", postgresql_where=SENT_ALERTS, sqlite_where=SENT_ALERTS),
)
"""Each message once on its channel. `channel`: `mail`, `alerts`, the name of one of ALERT_URLS,
or `event:` and the fingerprint of one of EVENT_URLS.

An alert on `alerts` waits to be put on each of the channels; what an alert is about is kept there too, as
sent, so that it is alerted on once. `payload` is JSON: an alert's title and body; a mail's invoice and
attempt; an event as it is sent. Amounts, links and the address are read when a mail is sent. `error` of a
mail that was given up begins with a word of `GivenUp`.
"""
