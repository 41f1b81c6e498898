"""Small values by name: how far what comes in order was read, and notes of what was begun or found."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import MonthLockedError
from spell_billing.core.month import Month
from spell_billing.core.review import Code
from spell_billing.core.review_ledger import Older
from spell_billing.ledger.column_types import columns_of, put_row, read_as
from spell_billing.ledger.reviews import findings_told
from spell_billing.ledger.schema import cursors, invoices

_REDRAFTING = "redrafting:"
_OLDER = "older:"
"""Notes that the ledger is older than invoices at Stripe: what was decided since then is not in it."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place that was reached, and when."""

    value: str
    moved_at: datetime


def read_cursor(connection: Connection, name: str) -> Cursor | None:
    """Return the place, or None where nothing was read yet."""
    query = sa.select(*columns_of(cursors, Cursor)).where(cursors.c.name == name)
    return next(iter(read_as(connection, Cursor, query)), None)


def drop_cursor(connection: Connection, name: str) -> None:
    """Forget a place."""
    connection.execute(cursors.delete().where(cursors.c.name == name))


def move_cursor(connection: Connection, name: str, value: str) -> None:
    """Write down the place that was reached."""
    put_row(connection, cursors, {"name": name, "value": value, "moved_at": datetime.now(UTC)})


def begin_redrafting(connection: Connection, month: Month) -> bool:
    """Note, before late usage is recorded, that waiting bills are drafted again; return whether this is new.

    The record is a file, the drafts are rows: a run that is killed between the two leaves a difference that
    counts as told and stands on no bill. Until the month is drafted again, which alone may remove the note,
    nobody may send, settle or adopt its bills.
    """
    new = not is_redrafting(connection, month)
    move_cursor(connection, f"{_REDRAFTING}{month}", str(month))
    return new


def end_redrafting(connection: Connection, month: Month) -> None:
    """Note that the waiting bills hold whatever was recorded."""
    drop_cursor(connection, f"{_REDRAFTING}{month}")


def is_redrafting(connection: Connection, month: Month) -> bool:
    """Return whether it is noted that the waiting bills are drafted again."""
    return read_cursor(connection, f"{_REDRAFTING}{month}") is not None


def require_redrafted(connection: Connection, month: Month) -> None:
    """Refuse a month whose waiting bills may lack what was recorded for them.

    Raises:
        MonthLockedError: until the month is drafted again.
    """
    if is_redrafting(connection, month):
        raise MonthLockedError(
            f"Updating the drafts of {month} was interrupted.",
            remedy=f"Complete it first: spell-billing bill --month {month}.",
        )


def note_older(connection: Connection, month: Month) -> None:
    """Note, before they are adopted, that Stripe has invoices of the month that the ledger never knew."""
    last = connection.scalar(sa.select(sa.func.max(invoices.c.finalized_at)))
    move_cursor(connection, f"{_OLDER}{month}", f"{last:%Y-%m-%d %H:%M}" if last else "")


def noted_older(connection: Connection, month: Month) -> datetime | None:
    """Return when this was noted of the month; None when it never was, or a review has told of it since."""
    return next((each.moved_at for each in _notes(connection) if each.name == f"{_OLDER}{month}"), None)


def read_older(connection: Connection) -> list[Older]:
    """Return the months of which it was noted since a review told of it, in order."""
    return [Older(each.name.removeprefix(_OLDER), each.value) for each in _notes(connection)]


def _notes(connection: Connection) -> list[sa.Row[Any]]:
    told = max((at for at, _ in findings_told(connection, Code.DECISIONS_LOST)), default=None)
    query = sa.select(cursors).where(cursors.c.name.startswith(_OLDER)).order_by(cursors.c.name)
    return [each for each in connection.execute(query) if told is None or each.moved_at > told]
