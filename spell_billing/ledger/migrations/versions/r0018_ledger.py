"""Make the ledger, or bring one of revision 0001 to 0017 to what the schema says."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import context, op

from spell_billing.ledger.column_types import UtcDateTime, insert_new
from spell_billing.ledger.migrations.missing import add_missing
from spell_billing.ledger.schema import outbox

revision = "0018"
down_revision = None

_WERE_OTHERS = (
    *("ledger_invoices_by_state", "ledger_invoices_by_user", "ledger_invoices_by_stripe_id"),
    "ledger_outbox_alerts",
)
"""Indexes that earlier revisions had with other columns or conditions, or that are no more."""
_SAID = "key, channel, kind, month, user_id, payload"
_STATE = "created_at, next_try_at, tries, sent_at"


def upgrade() -> None:
    """Add what is missing, and carry over what earlier revisions kept in another way."""
    earlier = context.config.attributes["earlier"]
    if earlier is None:
        add_missing(())
        return
    there = sa.inspect(op.get_bind()).get_table_names()
    for index in _WERE_OTHERS:
        op.drop_index(index, if_exists=True)
    has_old_outbox = "ledger_alerts" in there
    if has_old_outbox:
        op.execute("CREATE TEMPORARY TABLE old_outbox AS SELECT * FROM ledger_outbox")
        op.drop_table("ledger_outbox")
        there.remove("ledger_outbox")
    add_missing(there)
    if has_old_outbox:
        _fill_outbox()
    if earlier < "0017":
        # What our own credit notes gave; the next reading of an invoice has all of them.
        op.execute(
            "UPDATE ledger_payments SET to_balance_cents = (SELECT COALESCE(SUM(cents), 0) FROM "
            "ledger_credit_notes AS note WHERE note.stripe_invoice_id = ledger_payments.stripe_invoice_id "
            "AND note.kind = 'balance' AND note.outcome = 'issued')"
        )


def _fill_outbox() -> None:
    """Carry over what went out and what waits, and drop the tables that it was kept in."""
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
