"""Replaces a user's id by a pseudonym in every table of the ledger, in one transaction."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.erasure import Erasure
from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.ledger.column_types import metadata
from spell_billing.ledger.cursors import move_cursor
from spell_billing.ledger.holding import drafts_hash
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import audit, cursors, decisions, events, invoices, reviews

ERASED_USER = "user_erased"
"""The action in the audit trail."""

_UNFINISHED = "erasure:"
_IDS = frozenset({"user_id", "from_user", "to_user"})
TEXTS = {
    "ledger_invoices": ("message",),
    "ledger_audit": ("detail",),
    "ledger_payments": ("message",),
    "ledger_events": ("content",),
    "ledger_cursors": ("value",),
    "ledger_outbox": ("payload", "error"),
    "ledger_reviews": ("findings",),
    "ledger_decisions": ("reason",),
    "ledger_moves": ("reason",),
    "ledger_credit_notes": ("reason",),
}
"""Columns of text or JSON in which a user may be named. A test holds that no other column can name one."""
_AUDIT_GUARD = "ledger_audit_append_only"
_AUDIT_GUARD_SQLITE = "ledger_audit_no_update"


def begin_erasure(connection: Connection, erasure: Erasure) -> None:
    """Keep which pseudonym a user gets, until all is done: a repetition after a crash uses the same."""
    move_cursor(connection, _UNFINISHED + erasure.pseudonym, erasure.user_id)


def unfinished_erasure(connection: Connection, user_id: str) -> Erasure | None:
    """Return the erasure of a user that was begun and not completed."""
    return next((each for each in _unfinished(connection) if each.user_id == user_id), None)


def require_no_unfinished_erasure(connection: Connection) -> None:
    """Refuse to go on while a user has one name here and another at Stripe or in the frozen files.

    Raises:
        LedgerError: naming the user.
    """
    for each in _unfinished(connection):
        raise LedgerError(
            f"The erasure of user {each.user_id} was not completed.",
            remedy="Run `spell-billing erase-user` for the user again; then go on.",
        )


def require_audit_can_be_rewritten(connection: Connection) -> None:
    """Refuse before anything is done where the database would not let the audit trail be rewritten.

    Raises:
        LedgerError: when the user of the connection does not own the table.
    """
    if connection.dialect.name != "postgresql":
        return
    owns = sa.text(
        "SELECT pg_has_role(current_user, relowner, 'USAGE') FROM pg_class "
        "WHERE oid = 'ledger_audit'::regclass"
    )
    if not connection.scalar(owns):
        raise LedgerError(
            "The user of DATABASE_URL does not own ledger_audit, and only its owner may rewrite entries.",
            remedy="Erase with the database user that made the ledger (`spell-billing init-db`).",
        )


def erase_in_ledger(
    connection: Connection, erasure: Erasure, *, actor: Actor, detail: str, now: datetime
) -> None:
    """Replace the id in all tables, write the erasure into the audit trail, and end it.

    Args:
        connection: To the ledger, in a transaction.
        erasure: Which id, and what takes its place.
        actor: Who erases.
        detail: What was erased, without the id.
        now: When, aware.
    """
    if connection.dialect.name == "postgresql":
        # The handler of events reads the name of a bill and writes it in one transaction.
        connection.execute(sa.text(f"LOCK TABLE {events.name} IN EXCLUSIVE MODE"))
    reviewed = {
        month: drafts_hash(connection, Month.parse(month)) for month in _reviewed_months(connection, erasure)
    }
    connection.execute(cursors.delete().where(cursors.c.name == _UNFINISHED + erasure.pseudonym))
    with _audit_unguarded(connection):
        for table in metadata.sorted_tables:
            for column in table.columns:
                if column.name in _IDS:
                    renamed = {column.name: erasure.pseudonym}
                    connection.execute(table.update().where(column == erasure.user_id).values(renamed))
            for name in TEXTS.get(table.name, ()):
                _rewrite(connection, table, table.c[name], erasure)
    for month, before in reviewed.items():
        _keep_approval(connection, month, before)
    connection.execute(
        audit.insert().values(
            at=now,
            actor=actor.name,
            run_id=actor.run_id,
            month=str(Month.containing(now)),
            user_id=erasure.pseudonym,
            action=ERASED_USER,
            detail=detail,
        )
    )


def _unfinished(connection: Connection) -> list[Erasure]:
    rows = connection.execute(
        sa.select(cursors.c.name, cursors.c.value)
        .where(cursors.c.name.startswith(_UNFINISHED))
        .order_by(cursors.c.moved_at)
    )
    return [Erasure(value, name.removeprefix(_UNFINISHED)) for name, value in rows]


def _rewrite(connection: Connection, table: sa.Table, column: sa.Column[str], erasure: Erasure) -> None:
    keys = list(table.primary_key.columns)
    # JSON writes some characters of an id in another way.
    escaped = json.dumps(erasure.user_id)[1:-1]
    holds = sa.or_(*(column.contains(form, autoescape=True) for form in {erasure.user_id, escaped}))
    for *key, text in connection.execute(sa.select(*keys, column).where(holds)).all():
        new = _rewritten(text, erasure)
        if new != text:
            same_row = sa.and_(*(each == value for each, value in zip(keys, key, strict=True)))
            connection.execute(table.update().where(same_row).values({column.name: new}))


def _rewritten(text: str, erasure: Erasure) -> str:
    try:
        document: Any = json.loads(text)
    except ValueError:
        return erasure.in_text(text)
    if not isinstance(document, (dict, list)):
        return erasure.in_text(text)
    renamed = erasure.in_json(document)
    return text if renamed == document else json.dumps(renamed, ensure_ascii=False, separators=(",", ":"))


def _reviewed_months(connection: Connection, erasure: Erasure) -> list[str]:
    """Return the months with a review that have a bill of the user: what was approved covers the ids."""
    has_bill = sa.exists().where(invoices.c.month == reviews.c.month, invoices.c.user_id == erasure.user_id)
    return list(connection.scalars(sa.select(reviews.c.month).where(has_bill)))


def _keep_approval(connection: Connection, month: str, before: str) -> None:
    """Let a review and its approval stand for the same drafts under the new name."""
    after = drafts_hash(connection, Month.parse(month))
    for column in (reviews.c.drafts_hash, decisions.c.content_hash):
        table = column.table
        connection.execute(
            sa.update(table).where(table.c.month == month, column == before).values({column.name: after})
        )


@contextmanager
def _audit_unguarded(connection: Connection) -> Iterator[None]:
    """Let the audit trail be rewritten within this transaction: rolled back, its guard never went."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"ALTER TABLE {audit.name} DISABLE TRIGGER {_AUDIT_GUARD}"))
        yield
        connection.execute(sa.text(f"ALTER TABLE {audit.name} ENABLE TRIGGER {_AUDIT_GUARD}"))
        return
    made_by = connection.scalar(
        sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = :name"),
        {"name": _AUDIT_GUARD_SQLITE},
    )
    connection.exec_driver_sql(f"DROP TRIGGER {_AUDIT_GUARD_SQLITE}")
    yield
    connection.exec_driver_sql(str(made_by))
