"""Writes bills for the month's holder: its drafts in bulk, and changes with their audit entries.

The holder of a month's lock is alone in changing its bills, but for one thing: a bill with a standing invoice
moves between finalized, payment failed, paid and uncollectible as Stripe collects (`ledger/settling.py`).

Drafts go past SQLAlchemy's cost per row, by PostgreSQL's COPY and SQLite's executemany: for 100,000 of them
SQLAlchemy takes 3 to 4 s, this 0.5 to 0.9 s.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.drafting import Draft
from spell_billing.core.errors import LedgerLostError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.column_types import outcome
from spell_billing.ledger.payments import keep_payments
from spell_billing.ledger.rows import (
    DRAFT_COLUMNS,
    Actor,
    Bill,
    Change,
    DraftRow,
    beside_content,
    draft_row,
    fingerprint_part,
)
from spell_billing.ledger.schema import invoices

if TYPE_CHECKING:
    import psycopg

_ROWS_AT_ONCE = 5_000

_UNSENT_BYTES = 8 << 20
"""What may wait to be sent. With less, making rows waits while PostgreSQL takes in those made meanwhile."""


def write_changes(
    connection: Connection, changes: Sequence[Change], actor: Actor, now: datetime
) -> list[Bill]:
    """Write changes, each with its audit entry, in the connection's transaction.

    A bill that a payment moved meanwhile is changed from where it is now: a change that keeps the state keeps
    the new one, a change that leaves the standing invoices (parked, void) holds. Each bill comes once.

    Return the bills as they are now, in the order of the changes.

    Raises:
        LedgerLostError: when a bill is in another state than its change started from: write nothing at all.
    """
    states = _lock_standing(connection, changes)
    changes = [_from_where_it_is(change, states.get(change.before.id)) for change in changes]
    after = [replace(change.after, updated_at=now, run_id=actor.run_id) for change in changes]
    parameters = [
        {"bill_id": change.before.id, "state_before": change.before.state}
        | {f"new_{name}": getattr(bill, name) for name in _CHANGEABLE}
        for change, bill in zip(changes, after, strict=True)
    ]
    if connection.execute(_UPDATE, parameters).rowcount != len(changes):
        raise LedgerLostError(
            f"A bill of {changes[0].before.month} was changed by someone else while this run held the month.",
            remedy="Bill the month again; the next run starts from what the ledger says now.",
        )
    keep_payments(connection, [change.payment for change in changes if change.payment is not None])
    entries = (
        {
            "month": bill.month,
            "user_id": bill.user_id,
            "generation": bill.generation,
            "action": change.action,
            "from_state": change.before.state,
            "to_state": bill.state,
            "stripe_invoice_id": bill.stripe_invoice_id or change.before.stripe_invoice_id,
            "stripe_request_id": bill.stripe_request_id,
            "detail": change.detail,
        }
        for change, bill in zip(changes, after, strict=True)
    )
    write_audit(connection, actor, now, *entries)
    return after


def _lock_standing(connection: Connection, changes: Sequence[Change]) -> dict[int, State]:
    """Return the present state of the bills that payments may move, and keep them where they are."""
    ids = [change.before.id for change in changes if change.before.state in INVOICED]
    if not ids:
        return {}
    query = (
        sa.select(invoices.c.id, invoices.c.state)
        .where(invoices.c.id.in_(ids))
        .order_by(invoices.c.id)
        .with_for_update()
    )
    return {bill_id: outcome(State, state) for bill_id, state in connection.execute(query)}


def _from_where_it_is(change: Change, state: State | None) -> Change:
    before, after = change.before, change.after
    if state is None or state is before.state or state not in INVOICED:
        return change
    if after.state is before.state:
        after = replace(after, state=state)
    elif after.state in INVOICED:
        return change
    return replace(change, before=replace(before, state=state), after=after)


_FIXED = {"id", "month", "user_id", "generation", "created_at"}
_CHANGEABLE = [column.name for column in invoices.columns if column.name not in _FIXED]
_UPDATE = (
    invoices.update()
    .where(invoices.c.id == sa.bindparam("bill_id"), invoices.c.state == sa.bindparam("state_before"))
    .values({name: sa.bindparam(f"new_{name}") for name in _CHANGEABLE})
)


def insert_drafts(
    connection: Connection, month: Month, drafts: Iterable[Draft | DraftRow], *, run_id: str, now: datetime
) -> tuple[int, str]:
    """Insert a month's drafts as bills of the first generation, without audit entries.

    Returns:
        How many, and their fingerprint: what `drafts_hash` reads of them.

    Raises:
        sqlalchemy.exc.IntegrityError: for a second draft of a user.
        sqlalchemy.exc.DBAPIError: where the database fails, as SQLAlchemy itself would raise it.
    """
    postgres = connection.dialect.name == "postgresql"
    moment = f"{now.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}" + ("+00" if postgres else "")
    shared = beside_content(month, generation=1, run_id=run_id, now=now)
    shared |= {"unbilled_usage_cents": "0", "created_at": moment, "updated_at": moment}
    columns = ", ".join([*DRAFT_COLUMNS, *shared])
    digest = hashlib.sha256()
    rows = _rows(drafts, tuple(shared.values()), digest.update)
    count = (_copy if postgres else _executemany)(connection, columns, rows)
    return count, digest.hexdigest()


def _rows(
    drafts: Iterable[Draft | DraftRow], shared: tuple[object, ...], told: Callable[[bytes], None]
) -> Iterator[tuple[object, ...]]:
    for draft in drafts:
        row = draft_row(draft) if isinstance(draft, Draft) else draft
        told(fingerprint_part(row).encode())
        yield (*row, *shared)


def _copy(connection: Connection, columns: str, rows: Iterator[tuple[object, ...]]) -> int:
    # Loads psycopg, 0.2 s that SQLite does without.
    import psycopg  # noqa: PLC0415
    from psycopg.copy import LibpqWriter  # noqa: PLC0415

    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    statement = f"COPY {invoices.name} ({columns}) FROM STDIN"
    try:
        with driver.cursor() as cursor:
            writer = LibpqWriter(cursor, flush_threshold=_UNSENT_BYTES)
            with cursor.copy(statement, writer=writer) as stream:
                for row in rows:
                    stream.write_row(row)
            return cursor.rowcount
    except psycopg.Error as error:
        kind = sa.exc.IntegrityError if isinstance(error, psycopg.IntegrityError) else sa.exc.DBAPIError
        raise kind(statement, None, error, connection_invalidated=connection.invalidated) from error


def _executemany(connection: Connection, columns: str, rows: Iterator[tuple[object, ...]]) -> int:
    count = 0
    statement = f"INSERT INTO {invoices.name} ({columns}) VALUES (?{', ?' * columns.count(',')})"
    while batch := list(islice(rows, _ROWS_AT_ONCE)):
        connection.exec_driver_sql(statement, batch)
        count += len(batch)
    return count
