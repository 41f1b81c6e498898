"""Keeps a month's bills as they are while what came since for waiting users is recorded and not yet drafted.

The record is a file, the drafts are rows: a run that is killed between the two leaves a difference that
counts as told and stands on no bill. Until the month is drafted again, nobody may send, settle or adopt its
bills.
"""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import MonthLockedError
from spell_billing.core.month import Month
from spell_billing.ledger.cursors import move_cursor, read_cursor
from spell_billing.ledger.schema import cursors

_UNDER_WAY = "redrafting:"


def begin_redrafting(connection: Connection, month: Month) -> bool:
    """Note, before anything is recorded, that waiting bills are to be drafted again.

    Returns:
        Whether this is new: False where an interrupted run left its note, which only a redraft may remove.
    """
    new = read_cursor(connection, f"{_UNDER_WAY}{month}") is None
    move_cursor(connection, f"{_UNDER_WAY}{month}", str(month))
    return new


def end_redrafting(connection: Connection, month: Month) -> None:
    """Note that the waiting bills hold whatever was recorded."""
    connection.execute(sa.delete(cursors).where(cursors.c.name == f"{_UNDER_WAY}{month}"))


def require_redrafted(connection: Connection, month: Month) -> None:
    """Refuse a month whose waiting bills may lack what was recorded for them.

    Raises:
        MonthLockedError: until the month is drafted again.
    """
    if read_cursor(connection, f"{_UNDER_WAY}{month}") is not None:
        raise MonthLockedError(
            f"Updating the drafts of {month} was interrupted.",
            remedy=f"Complete it first: spell-billing bill --month {month}.",
        )
