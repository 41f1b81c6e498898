"""Keep alerts and mail in one outbox; what went out and what waits is carried over."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from spell_billing.ledger.column_types import BigId, UtcDateTime, insert_new

revision = "0006"
down_revision = "0005"

_SENT_ALERTS = sa.text("sent_at IS NOT NULL AND channel NOT IN ('alerts', 'mail')")
_SAID = "key, channel, kind, month, user_id, payload"
_STATE = "created_at, next_try_at, tries, sent_at"


def upgrade() -> None:
    """Make the outbox anew, fill it from what it replaces, and drop that."""
    op.execute("CREATE TEMPORARY TABLE old_outbox AS SELECT * FROM ledger_outbox")
    op.drop_table("ledger_outbox")
    outbox = op.create_table(
        "ledger_outbox",
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
    )
    op.create_index(
        "ledger_outbox_waiting", "ledger_outbox", ["channel", "sent_at", "given_up_at", "next_try_at"]
    )
    op.create_index(
        "ledger_outbox_alerts",
        "ledger_outbox",
        ["kind"],
        postgresql_where=_SENT_ALERTS,
        sqlite_where=_SENT_ALERTS,
    )
    op.execute(
        f"INSERT INTO ledger_outbox ({_SAID}, {_STATE}, given_up_at, error) "
        f"SELECT key, 'mail', template, month, user_id, content, {_STATE}, given_up_at, error "
        "FROM old_outbox ORDER BY id"
    )
    op.execute(
        f"INSERT INTO ledger_outbox ({_SAID}, {_STATE}) "
        "SELECT 'users_not_invoiced:' || r.bill_id || ':' || r.state || ':' || r.reason, 'alerts', "
        "'users_not_invoiced', i.month, i.user_id, '{}', r.reported_at, r.reported_at, 1, r.reported_at "
        "FROM ledger_reported_bills r JOIN ledger_invoices i ON i.id = r.bill_id"
    )
    op.execute(
        f"INSERT INTO ledger_outbox ({_SAID}, {_STATE}) "
        "SELECT 'payment_failed:' || stripe_invoice_id || ':' || alerted_attempts, 'alerts', "
        "'payment_failed', month, NULL, '{}', as_of, as_of, 1, as_of "
        "FROM ledger_payments WHERE alerted_attempts > 0"
    )
    insert_new(op.get_bind(), outbox, [*_alerts(), *_waiting_failures()])
    op.drop_column("ledger_payments", "alerted_attempts")
    for table in ("old_outbox", "ledger_alerts", "ledger_reported_bills"):
        op.drop_table(table)


def _alerts() -> Iterator[dict[str, Any]]:
    """Give the rows of alerts that went out."""
    columns = ("key", "channel", "kind", "month", "text")
    alerts = sa.table("ledger_alerts", *map(sa.column, columns), sa.column("sent_at", UtcDateTime))
    for row in op.get_bind().execute(sa.select(alerts).order_by(alerts.c.sent_at)).mappings():
        title, _, body = row["text"].partition("\n")
        said = {name: row[name] for name in ("key", "channel", "kind", "month")}
        yield _row(said, row["sent_at"], title=title, body=body)


def _waiting_failures() -> Iterator[dict[str, Any]]:
    """Give the rows of alerts that wait, and of what they are about; a channel that had one has its row."""
    cursors = sa.table("ledger_cursors", sa.column("name"), sa.column("value"))
    named = cursors.c.name == "payment_alerts"
    for each in json.loads(op.get_bind().scalar(sa.select(cursors.c.value).where(named)) or "[]"):
        alert = each["alert"]
        said = {"channel": "alerts", "kind": alert["kind"], "month": alert["month"]}
        yield _row({"key": alert["key"], **said}, None, title=alert["title"], body=alert["body"])
        for invoice, attempt in each["attempts"].items():
            yield _row({"key": f"payment_failed:{invoice}:{attempt}", **said}, datetime.now(UTC))
    op.get_bind().execute(sa.delete(cursors).where(named))


def _row(said: dict[str, Any], sent_at: datetime | None, **payload: str) -> dict[str, Any]:
    at = sent_at or datetime.now(UTC)
    state = {"created_at": at, "next_try_at": at, "tries": int(sent_at is not None), "sent_at": sent_at}
    return {**said, "payload": json.dumps(payload), **state}
