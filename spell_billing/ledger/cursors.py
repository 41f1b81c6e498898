"""How far something that comes in order was read: small values by name."""

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.ledger.schema import cursors
from spell_billing.ledger.upsert import insert_new


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place that was reached, and when."""

    value: str
    moved_at: datetime


def read_cursor(connection: Connection, name: str) -> Cursor | None:
    """Return the place, or None where nothing was read yet."""
    row = connection.execute(
        sa.select(cursors.c.value, cursors.c.moved_at).where(cursors.c.name == name)
    ).first()
    return Cursor(*row) if row else None


def drop_cursor(connection: Connection, name: str) -> None:
    """Forget a place."""
    connection.execute(cursors.delete().where(cursors.c.name == name))


def move_cursor(connection: Connection, name: str, value: str) -> None:
    """Write down the place that was reached."""
    row = {"value": value, "moved_at": datetime.now(UTC)}
    if not insert_new(connection, cursors, [{"name": name, **row}]):
        connection.execute(cursors.update().where(cursors.c.name == name).values(row))
