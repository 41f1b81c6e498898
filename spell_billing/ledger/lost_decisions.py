"""Notes that the ledger is older than invoices at Stripe: what was decided since then is not in it."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.review import Code
from spell_billing.core.review_ledger import Older
from spell_billing.ledger.cursors import move_cursor
from spell_billing.ledger.reviews import findings_told
from spell_billing.ledger.schema import cursors, invoices

_OLDER = "older:"


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
