"""The audit trail: who did what to which bill. Entries are only ever added."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.ledger.rows import DRAFTED, Actor
from spell_billing.ledger.schema import audit


def write_audit(connection: Connection, actor: Actor, at: datetime, *entries: Mapping[str, Any]) -> None:
    """Append entries, each with its month and action; all of one call name the same columns."""
    shared = {"at": at, "actor": actor.name, "run_id": actor.run_id}
    if entries:
        connection.execute(audit.insert(), [{**shared, **each} for each in entries])


def read_trail(connection: Connection, month: Month, user_id: str | None = None) -> list[dict[str, Any]]:
    """Return the entries of a month, or of one user in it, in the order they were written."""
    query = sa.select(audit).where(audit.c.month == str(month)).order_by(audit.c.id)
    if user_id is not None:
        everybodys = sa.and_(audit.c.user_id.is_(None), audit.c.action == DRAFTED)
        query = query.where(sa.or_(audit.c.user_id == user_id, everybodys))
    # SQLAlchemy's names are a kind of text of its own, which not every JSON writer takes.
    return [{str(name): value for name, value in row.items()} for row in connection.execute(query).mappings()]
