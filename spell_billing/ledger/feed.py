"""The feed: the audit trail's entries that the platform must know of, as events, each once and in order.

Ids of the audit trail rise, but in PostgreSQL an entry may become visible after one with a higher id: its
transaction took longer. A reader who had gone past it would never see it. So nobody reads beyond `final_id`.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.credit_notes import CREDITED, MONEY_BACK
from spell_billing.ledger.credits import settled_of
from spell_billing.ledger.cursors import move_cursor, read_cursor
from spell_billing.ledger.money_tables import credit_notes
from spell_billing.ledger.outbox import Message, put
from spell_billing.ledger.reviews import DecisionKind
from spell_billing.ledger.schema import audit, decisions, invoices
from spell_billing.ledger.settling import OVERDUE
from spell_billing.ledger.thresholds import THRESHOLD, Reached

WAIT_SECONDS = 2.0
"""For transactions under way; those of a run take milliseconds, drafting a large month a second or two."""

_LOOK_SECONDS = 0.02
_WRITERS = sa.text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' "
    "AND relation = 'ledger_audit'::regclass AND pid IS DISTINCT FROM pg_backend_pid() "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class LedgerBusyError(SpellBillingError):
    """A transaction that writes the audit trail takes long: what it writes is not known yet."""

    transient = True


class EventType(StrEnum):
    """What happened."""

    FINALIZED = "invoice.finalized"
    PAID = "invoice.paid"
    PAYMENT_FAILED = "invoice.payment_failed"
    VOIDED = "invoice.voided"
    CREDITED = "invoice.credited"
    MONTH_BILLED = "month.billed"
    OVERDUE = "user.overdue"
    THRESHOLD_REACHED = "usage.threshold_reached"


@dataclass(frozen=True, slots=True)
class Event:
    """What the platform is told about one entry of the audit trail.

    `id` is always the same for this event, and of no other event, not even in a ledger that was restored.
    `total_cents` is the invoice's total, or the credit given back; None where the ledger has no bill with
    this invoice any more. `state` is the bill's from then on; None for `invoice.credited`. `month.billed` has
    nothing about a bill but the month; `usage.threshold_reached` is about none, and has `reached`.
    """

    id: str
    type: EventType
    created_at: datetime
    month: str
    user_id: str | None
    generation: int | None
    stripe_invoice_id: str | None
    total_cents: int | None
    currency: str | None
    state: str | None
    reached: Reached | None = None

    def as_fields(self) -> dict[str, Any]:
        """Return what it says, by name; what was reached beside the rest."""
        fields = asdict(self)
        return fields | (fields.pop("reached") or {})

    def as_json(self) -> dict[str, Any]:
        """Return it as it is sent."""
        return {**self.as_fields(), "type": self.type.value, "created_at": self.created_at.isoformat()}


def final_id(connection: Connection, *, wait_seconds: float = WAIT_SECONDS) -> int:
    """Return the id up to which the audit trail is complete: no entry below it will appear any more.

    SQLite has one writer at a time, so ids appear in order. In PostgreSQL a transaction holds a lock of the
    table from before it takes an id until its entries are visible. An id below the highest visible one was
    taken before that; so once the transactions that hold the lock now have ended, all of these are visible.

    The connection reads committed rows, and has written none.

    Raises:
        LedgerBusyError: when one of them takes longer than `wait_seconds`.
    """
    last: int = connection.scalar(sa.select(sa.func.max(audit.c.id))) or 0
    if connection.dialect.name == "postgresql":
        deadline = time.monotonic() + wait_seconds
        under_way = set(connection.scalars(_WRITERS))
        while under_way:
            if time.monotonic() >= deadline:
                raise LedgerBusyError(
                    "A transaction that writes the ledger's audit trail is still under way.",
                    remedy="Try again in some seconds. If it stays, look for it in pg_stat_activity.",
                )
            time.sleep(_LOOK_SECONDS)
            under_way &= set(connection.scalars(_WRITERS))
    return last


def read_feed(connection: Connection, *, after: int, until: int, limit: int) -> list[tuple[int, Event]]:
    """Return events in order, each with the id of its entry.

    They are those of entries above `after`, up to `until`, which `final_id` gave.
    """
    same_bill = sa.and_(
        *(invoices.c[name] == audit.c[name] for name in ("month", "user_id", "generation")),
        invoices.c.stripe_invoice_id == audit.c.stripe_invoice_id,
    )
    same_credit = sa.and_(
        *(decisions.c[name] == audit.c[name] for name in ("month", "user_id", "at")),
        decisions.c.kind == audit.c.action,
        audit.c.action == DecisionKind.CREDIT_SETTLED.value,
    )
    same_note = sa.and_(
        audit.c.action == CREDITED,
        credit_notes.c.stripe_invoice_id == audit.c.stripe_invoice_id,
        audit.c.detail.contains(credit_notes.c.credit_note_id),
    )
    names = ("id", "at", "month", "user_id", "generation", "stripe_invoice_id", "to_state", "detail")
    note = invoices.c.currency + ":" + sa.cast(credit_notes.c.cents, sa.Text)
    query = (
        sa.select(
            *(audit.c[name] for name in names),
            _TYPE.label("type"),
            sa.func.coalesce(audit.c.amount_cents, invoices.c.total_cents).label("total_cents"),
            invoices.c.currency,
            sa.func.coalesce(decisions.c.content_hash, note).label("credit"),
        )
        .select_from(
            audit.outerjoin(invoices, same_bill)
            .outerjoin(decisions, same_credit)
            .outerjoin(credit_notes, same_note)
        )
        .where(audit.c.id > after, audit.c.id <= until, _TYPE.is_not(None))
        .order_by(audit.c.id)
        .limit(limit)
    )
    return [(row["id"], _event(row)) for row in connection.execute(query).mappings()]


def fill(
    connection: Connection, channels: Sequence[str], *, until: int, now: datetime, limit: int
) -> dict[str, int]:
    """Put new events into the outbox for each channel, and remember how far it got. A new one begins here.

    `until` is what `final_id` gave; what is beyond `limit`, for a channel, comes with the next call. Return
    how many were added, by channel.
    """
    added = {}
    for channel in channels:
        place = read_cursor(connection, channel)
        after = until if place is None else int(place.value)
        found = read_feed(connection, after=after, until=until, limit=limit)
        messages = [
            Message(event.id, channel, event.type, event.as_json(), event.month, event.user_id)
            for _, event in found
        ]
        added[channel] = put(connection, messages, now=now)
        move_cursor(connection, channel, str(found[-1][0] if len(found) == limit else until))
    return added


def _moved_to(state: State) -> sa.ColumnElement[bool]:
    before = audit.c.from_state
    return sa.and_(audit.c.to_state == state.value, sa.or_(before.is_(None), before != state.value))


_STOOD = audit.c.from_state.in_([state.value for state in INVOICED])
_BY_A_PERSON_AT_STRIPE = sa.and_(audit.c.action == "parked", audit.c.detail.is_(None))
"""A bill that is parked for another reason says so in the entry."""
_VOIDED = sa.or_(
    sa.and_(_moved_to(State.VOID), sa.or_(_STOOD, audit.c.from_state == State.PARKED.value)),
    sa.and_(_moved_to(State.PARKED), _STOOD, _BY_A_PERSON_AT_STRIPE),
)
_TYPE = sa.case(
    (audit.c.action == "month_billed", EventType.MONTH_BILLED.value),
    (audit.c.action == OVERDUE, EventType.OVERDUE.value),
    (audit.c.action == THRESHOLD, EventType.THRESHOLD_REACHED.value),
    (audit.c.action.in_([DecisionKind.CREDIT_SETTLED.value, CREDITED]), EventType.CREDITED.value),
    (sa.and_(audit.c.action == MONEY_BACK, audit.c.amount_cents.is_not(None)), EventType.CREDITED.value),
    (_moved_to(State.FINALIZED), EventType.FINALIZED.value),
    (_moved_to(State.PAID), EventType.PAID.value),
    (_moved_to(State.PAYMENT_FAILED), EventType.PAYMENT_FAILED.value),
    (_VOIDED, EventType.VOIDED.value),
)
"""The type of event that an entry makes; null for all others."""


def _event(row: RowMapping) -> Event:
    total_cents, currency = row["total_cents"], row["currency"]
    if row["credit"] is not None:
        currency, total_cents = settled_of(row["user_id"], row["credit"])
    is_threshold = row["type"] == EventType.THRESHOLD_REACHED
    return Event(
        id=_name(row),
        type=EventType(row["type"]),
        created_at=row["at"],
        month=row["month"],
        user_id=row["user_id"],
        generation=row["generation"],
        stripe_invoice_id=row["stripe_invoice_id"],
        total_cents=total_cents,
        currency=currency,
        state=row["to_state"],
        reached=Reached.parse(row["detail"]) if is_threshold else None,
    )


def _name(row: RowMapping) -> str:
    # A restored ledger gives ids again, to other entries. Of what an erasure changes there is nothing in it.
    about = "|".join(str(row[name]) for name in ("at", "type", "month", "generation", "stripe_invoice_id"))
    return f"evt_{row['id']}_{hashlib.sha256(about.encode()).hexdigest()[:8]}"
