"""The inbox of Stripe's events: each once, whichever way it came in, until it is handled."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.ledger.column_types import columns_of, insert_new, read_as
from spell_billing.ledger.schema import events

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
    """Put events into the inbox that it does not have, nor had, and return how many these are."""
    now = datetime.now(UTC)
    rows = {event.event_id: {**asdict(event), "received_at": now} for event in received}
    return insert_new(connection, events, [rows[event_id] for event_id in sorted(rows)])


def waiting_events(connection: Connection, limit: int) -> list[Event]:
    """Take the oldest events that wait; another transaction that takes some at the same time gets others."""
    waiting = _oldest(events.c.handled_at.is_(None), limit).with_for_update(skip_locked=True)
    return read_as(connection, Event, waiting)


def events_kept(connection: Connection, outcome: str, limit: int) -> list[Event]:
    """Return the oldest events with an outcome: `TO_LOOK_AT` or `SET_ASIDE`."""
    kept = sa.and_(events.c.handled_at > _OLDEST, events.c.outcome == outcome)
    return read_as(connection, Event, _oldest(kept, limit))


def handle_again(connection: Connection) -> int:
    """Let the events that were set aside wait to be handled again, and return how many."""
    again = events.update().where(events.c.outcome == SET_ASIDE).values(handled_at=None, outcome=None)
    return connection.execute(again).rowcount


def _oldest(which: sa.ColumnElement[bool], limit: int) -> sa.Select[Any]:
    query = sa.select(*columns_of(events, Event)).where(which)
    return query.order_by(events.c.created_at, events.c.event_id).limit(limit)


def mark_handled(connection: Connection, outcomes: Mapping[str, str]) -> None:
    """Note what became of events, by event id."""
    if outcomes:
        handled = events.update().where(events.c.event_id == sa.bindparam("id"))
        handled = handled.values(handled_at=datetime.now(UTC), outcome=sa.bindparam("what"))
        connection.execute(handled, [{"id": each, "what": what} for each, what in outcomes.items()])


def count_waiting(connection: Connection) -> int:
    """Count the events that wait."""
    return connection.scalar(sa.select(sa.func.count()).where(events.c.handled_at.is_(None))) or 0


def forget_events(connection: Connection, *, handled_before: datetime) -> int:
    """Delete events handled before a time, and return how many."""
    # From a fixed time on, so that the index serves.
    old = events.c.handled_at.between(_OLDEST, handled_before)
    done = events.c.outcome.not_in([TO_LOOK_AT, SET_ASIDE])
    return connection.execute(events.delete().where(old, done)).rowcount
