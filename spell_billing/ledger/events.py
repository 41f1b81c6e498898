"""The inbox of Stripe's events: each once, whichever way it came in, until it is handled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.ledger.schema import events
from spell_billing.ledger.upsert import insert_new

TO_LOOK_AT, SET_ASIDE = "to_look_at", "set_aside"
"""Outcomes of events that are kept: what they point to is still to be read; nobody could read them."""

_OLDEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """An event of Stripe: `created_at` by Stripe's clock, `content` as JSON, `way` how it came in."""

    event_id: str
    type: str
    created_at: datetime
    way: str
    content: str


def receive_events(connection: Connection, received: Sequence[Event]) -> int:
    """Put events into the inbox; those that it has, or had, stay as they are.

    Returns:
        How many are new.
    """
    now = datetime.now(UTC)
    rows = {
        event.event_id: {
            "event_id": event.event_id,
            "type": event.type,
            "created_at": event.created_at,
            "received_at": now,
            "way": event.way,
            "content": event.content,
        }
        for event in received
    }
    return insert_new(connection, events, [rows[event_id] for event_id in sorted(rows)])


def waiting_events(connection: Connection, limit: int) -> list[Event]:
    """Take the oldest events that wait; another transaction that takes some at the same time gets others."""
    query = (
        sa.select(events.c.event_id, events.c.type, events.c.created_at, events.c.way, events.c.content)
        .where(events.c.handled_at.is_(None))
        .order_by(events.c.created_at, events.c.event_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [Event(*row) for row in connection.execute(query)]


def events_to_look_at(connection: Connection, limit: int) -> list[Event]:
    """Return the oldest events that point to something at Stripe which is still to be read."""
    return _events(connection, events.c.outcome == TO_LOOK_AT, limit)


def events_set_aside(connection: Connection, limit: int) -> list[Event]:
    """Return the oldest events that could not be handled."""
    return _events(connection, events.c.outcome == SET_ASIDE, limit)


def handle_again(connection: Connection) -> int:
    """Let the events that were set aside wait to be handled again; give how many."""
    again = events.update().where(events.c.outcome == SET_ASIDE).values(handled_at=None, outcome=None)
    return connection.execute(again).rowcount


def _events(connection: Connection, which: sa.ColumnElement[bool], limit: int) -> list[Event]:
    query = (
        sa.select(events.c.event_id, events.c.type, events.c.created_at, events.c.way, events.c.content)
        .where(events.c.handled_at > _OLDEST, which)
        .order_by(events.c.created_at, events.c.event_id)
        .limit(limit)
    )
    return [Event(*row) for row in connection.execute(query)]


def mark_handled(connection: Connection, outcomes: Mapping[str, str]) -> None:
    """Note what became of events, by event id."""
    if not outcomes:
        return
    statement = (
        events.update()
        .where(events.c.event_id == sa.bindparam("id"))
        .values(handled_at=datetime.now(UTC), outcome=sa.bindparam("what"))
    )
    connection.execute(statement, [{"id": each, "what": what} for each, what in outcomes.items()])


def count_waiting(connection: Connection) -> int:
    """Count the events that wait."""
    return connection.scalar(sa.select(sa.func.count()).where(events.c.handled_at.is_(None))) or 0


def forget_events(connection: Connection, *, handled_before: datetime) -> int:
    """Delete events handled before a time; give how many."""
    # From a fixed time on, so that the index serves.
    old = events.c.handled_at.between(_OLDEST, handled_before)
    done = events.c.outcome.not_in([TO_LOOK_AT, SET_ASIDE])
    return connection.execute(events.delete().where(old, done)).rowcount
