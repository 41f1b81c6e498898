"""How far something that comes in order was read: small values by name."""

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import MonthLockedError
from spell_billing.core.month import Month
from spell_billing.ledger.column_types import columns_of, put_row, read_as
from spell_billing.ledger.schema import cursors

_REDRAFTING = "redrafting:"


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
    new = read_cursor(connection, f"{_REDRAFTING}{month}") is None
    move_cursor(connection, f"{_REDRAFTING}{month}", str(month))
    return new


def end_redrafting(connection: Connection, month: Month) -> None:
    """Note that the waiting bills hold whatever was recorded."""
    drop_cursor(connection, f"{_REDRAFTING}{month}")


def require_redrafted(connection: Connection, month: Month) -> None:
    """Refuse a month whose waiting bills may lack what was recorded for them.

    Raises:
        MonthLockedError: until the month is drafted again.
    """
    if read_cursor(connection, f"{_REDRAFTING}{month}") is not None:
        raise MonthLockedError(
            f"Updating the drafts of {month} was interrupted.",
            remedy=f"Complete it first: spell-billing bill --month {month}.",
        )
