"""When a URL does not take events: since when, and what operators are alerted on, once per outage."""

from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from spell_billing.alerts.alert import Alert
from spell_billing.events_out.receiver import Receiver
from spell_billing.ledger.cursors import drop_cursor, move_cursor, read_cursor
from spell_billing.ledger.outbox import EVENT, put

KIND = "events_out"
ALARM_AFTER = timedelta(hours=1)
"""A receiver may be away for a moment; one that stays away raises an alert."""


def outage_since(connection: Connection, receiver: Receiver, now: datetime) -> datetime:
    """Return when the outage of a URL began, and begin one where there is none.

    It lasts from the first event that was not taken until none that was tried waits any more.
    """
    cursor = read_cursor(connection, _name(receiver))
    if cursor is not None:
        return datetime.fromisoformat(cursor.value)
    move_cursor(connection, _name(receiver), now.isoformat())
    return now


def close_outage(connection: Connection, receiver: Receiver) -> None:
    """End the outage of a URL, if there is one: the next is alerted on again."""
    if read_cursor(connection, _name(receiver)) is not None:
        drop_cursor(connection, _name(receiver))


def report_stuck(connection: Connection, receiver: Receiver, problem: str | None, now: datetime) -> None:
    """Put an alert into the outbox, once per outage, when a URL has not taken events for an hour."""
    since = outage_since(connection, receiver, now)
    if now - since >= ALARM_AFTER:
        text = (
            f"{receiver} has not taken some or all events since {since:%Y-%m-%d %H:%M} UTC"
            f"{f': {problem}' if problem else ''}. They are tried again by themselves, for three days.\n"
            "Next: see docs/events.md; check EVENT_URLS and the receiver's log."
        )
        key = f"{KIND}:stuck:{receiver.channel}:{since.isoformat()}"
        put(connection, [Alert(key, KIND, "Events do not reach the platform", text).on()])


def report_lost(connection: Connection, receiver: Receiver, problem: str | None, now: datetime) -> None:
    """Put an alert into the outbox, once per outage, when events were given up."""
    since = outage_since(connection, receiver, now)
    text = (
        f"{receiver} has not taken events for three days{f': {problem}' if problem else ''}. The first of "
        "them are given up, and later ones follow them.\n"
        "Next: correct EVENT_URLS or the receiver; then let the platform catch up with GET /v1/changes "
        f"(docs/events.md). It lacks events since {since:%Y-%m-%d %H:%M} UTC."
    )
    key = f"{KIND}:lost:{receiver.channel}:{since.isoformat()}"
    put(connection, [Alert(key, KIND, "Events for the platform are given up", text).on()])


def _name(receiver: Receiver) -> str:
    return f"event_outage:{receiver.channel.removeprefix(EVENT)}"
