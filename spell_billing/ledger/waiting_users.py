"""Users who wait for a person, and of which of them operators were alerted.

What was alerted on stands in the outbox: bill, state and reason are the key.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import TO_DRIVE, Reason, State
from spell_billing.ledger.column_types import outcome
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.month_state import FOR_A_PERSON
from spell_billing.ledger.outbox import ALERTS, NOT_INVOICED, Said, is_put, put_selected, words
from spell_billing.ledger.queries import latest_generation
from spell_billing.ledger.schema import invoices, months, outbox

_BILL = words(f"{NOT_INVOICED}:", invoices.c.id, ":")
_KEY = words(_BILL, invoices.c.state, ":", invoices.c.reason)
_WAITS = invoices.c.state.in_([*FOR_A_PERSON])


@dataclass(slots=True)
class WaitingUsers:
    """Users of a month who wait for a person for one reason, about whom nobody was alerted."""

    month: Month
    reason: Reason
    newest: datetime
    """When the newest of their bills changed."""
    users: int = 0
    totals_cents: Counter[str] = field(default_factory=Counter)
    """What they owe, in minor units, by currency."""
    states: set[State] = field(default_factory=set)


def months_to_look_at(connection: Connection) -> list[Month]:
    """Return the months whose billing started and that have users who wait for a person, oldest first."""
    waits = sa.exists().where(invoices.c.month == months.c.month, _WAITS)
    query = sa.select(months.c.month).where(months.c.billing_started_at.is_not(None), waits)
    return [Month.parse(month) for month in connection.scalars(query.order_by(months.c.month))]


def not_alerted(connection: Connection, month: Month) -> list[WaitingUsers]:
    """Return the month's users who wait for a person and about whom nobody was alerted, by reason."""
    columns = (invoices.c.reason, invoices.c.state, invoices.c.currency)
    counts = (sa.func.count(), sa.func.sum(invoices.c.total_cents), sa.func.max(invoices.c.updated_at))
    query = sa.select(*columns, *counts).where(_is_new(month)).group_by(*columns).order_by(*columns)
    found: dict[str, WaitingUsers] = {}
    for reason, state, currency, users, cents, newest in connection.execute(query):
        group = found.setdefault(reason, WaitingUsers(month, outcome(Reason, reason), newest))
        group.states.add(outcome(State, state))
        group.users += users
        group.totals_cents[currency] += int(cents)
        group.newest = max(group.newest, newest)
    return list(found.values())


def first_users(connection: Connection, group: WaitingUsers, limit: int) -> list[str]:
    """Return the first users of a group, by user id."""
    chosen = sa.select(invoices.c.user_id).where(_is_in(group)).order_by(invoices.c.user_id).limit(limit)
    return list(connection.scalars(chosen))


def note_alerted(connection: Connection, group: WaitingUsers) -> None:
    """Record that a group is alerted on; a bill that changed since it was read is left out."""
    which = _is_in(group) & (invoices.c.updated_at <= group.newest)
    said: Said = {"key": _KEY, "channel": ALERTS, "kind": NOT_INVOICED, "payload": "{}"}
    put_selected(connection, invoices, which, said, datetime.now(UTC), sent=True)


def forget_changed(ledger: Ledger) -> None:
    """Drop what was alerted on and has changed since, so that it can be alerted on again.

    A bill that the next run takes up is kept: it may come back to the same state with nothing fixed.
    """
    changed = sa.and_(
        *(outbox.c.channel == ALERTS, outbox.c.kind == NOT_INVOICED, outbox.c.user_id.is_not(None)),
        ~sa.exists().where(
            *(invoices.c.month == outbox.c.month, invoices.c.user_id == outbox.c.user_id),
            (outbox.c.key == _KEY) | (invoices.c.state.in_([*TO_DRIVE]) & outbox.c.key.startswith(_BILL)),
        ),
    )
    # A look takes no write lock: mostly there is nothing to drop.
    with ledger.reading() as connection:
        if connection.scalar(sa.select(outbox.c.id).where(changed).limit(1)) is None:
            return
    with ledger.writing() as connection:
        connection.execute(outbox.delete().where(changed))


def _is_in(group: WaitingUsers) -> sa.ColumnElement[bool]:
    return _is_new(group.month) & (invoices.c.reason == group.reason.value)


def _is_new(month: Month) -> sa.ColumnElement[bool]:
    return sa.and_(latest_generation(month), _WAITS, invoices.c.reason.is_not(None), ~is_put(_KEY, ALERTS))
