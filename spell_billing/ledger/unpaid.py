"""Invoices that are still to be paid: unread, failing, not alerted on; and the steps of our own dunning."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.column_types import insert_new, read_as
from spell_billing.ledger.money_tables import dunning, payments
from spell_billing.ledger.outbox import ALERTS, is_put, words
from spell_billing.ledger.queries import of_drafted_months
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.settling import UNSETTLED

FAILED = "payment_failed"
"""The kind of alert; `payment_failed:<invoice>:<attempt>` names a failure in the outbox."""

_HAS_INVOICE = invoices.c.stripe_invoice_id.is_not(None)
_MAY_BE_COLLECTED = invoices.c.state.in_([*UNSETTLED])
_IS_FAILING = sa.and_(payments.c.status == "open", payments.c.failed_attempts > 0)


@dataclass(frozen=True, slots=True)
class BillName:
    """Whose bill an invoice is."""

    month: str
    user_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class FailedPayment:
    """A payment that failed and is still due. `due_cents` in minor units of `currency`."""

    stripe_invoice_id: str
    month: str
    user_id: str
    currency: str
    due_cents: int
    failed_attempts: int
    next_attempt_at: datetime | None
    decline_code: str | None
    message: str | None


def anything_to_follow(connection: Connection) -> bool:
    """Return whether any bill has an invoice at Stripe that stands, or may soon."""
    to_follow = invoices.c.state.in_([State.DRAFTED, *INVOICED])
    query = sa.select(invoices.c.id).where(of_drafted_months(), to_follow, _HAS_INVOICE)
    return connection.scalar(query.limit(1)) is not None


def bills_of_invoices(connection: Connection, invoice_ids: Collection[str]) -> dict[str, BillName]:
    """Return the bills that the ledger has for invoices, by invoice id."""
    bill = invoices.c
    query = sa.select(bill.stripe_invoice_id, bill.month, bill.user_id, bill.generation)
    rows = connection.execute(query.where(bill.stripe_invoice_id.in_(list(invoice_ids))))
    return {invoice_id: BillName(*name) for invoice_id, *name in rows}


def invoices_of_customer(connection: Connection, customer_id: str) -> bool:
    """Return whether any bill has an invoice of a customer at Stripe."""
    query = sa.select(invoices.c.id).where(invoices.c.stripe_customer_id == customer_id, _HAS_INVOICE)
    return connection.scalar(query.limit(1)) is not None


def unsettled_months(connection: Connection) -> list[str]:
    """Return the months with invoices that Stripe may still collect, oldest first."""
    query = sa.select(invoices.c.month).where(of_drafted_months(), _MAY_BE_COLLECTED)
    return list(connection.scalars(query.distinct().order_by(invoices.c.month)))


def count_unread(connection: Connection, month: str, since: datetime) -> tuple[int, datetime | None, int]:
    """Return how many of the month's invoices are unread, the last one's finalization, and how many exist."""
    unread = _unread(month, since, sa.func.count(), sa.func.max(invoices.c.finalized_at))
    bills, last = connection.execute(unread).one()
    all_of_month = sa.select(sa.func.count()).where(invoices.c.month == month, _HAS_INVOICE)
    return bills, last, connection.scalar(all_of_month) or 0


def unread_invoices(
    connection: Connection, month: str, since: datetime, *, after_id: int, limit: int
) -> list[tuple[int, str]]:
    """Return the next of the month's unread invoices: the bill's id and the invoice's."""
    query = _unread(month, since, invoices.c.id, invoices.c.stripe_invoice_id)
    query = query.where(invoices.c.id > after_id).order_by(invoices.c.id).limit(limit)
    return [(bill_id, invoice_id) for bill_id, invoice_id in connection.execute(query)]


def _unread(month: str, since: datetime, *what: Any) -> sa.Select[Any]:
    return (
        sa.select(*what)
        .select_from(invoices)
        .outerjoin(payments, payments.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .where(invoices.c.month == month, _MAY_BE_COLLECTED, _HAS_INVOICE)
        .where(sa.or_(payments.c.as_of.is_(None), payments.c.as_of < since))
    )


def failures_without_reason(connection: Connection, limit: int) -> list[str]:
    """Return invoices whose last failed attempt has no reason yet, the latest news first."""
    query = (
        sa.select(payments.c.stripe_invoice_id)
        .where(_IS_FAILING, payments.c.decline_code.is_(None))
        .order_by(payments.c.as_of.desc(), payments.c.stripe_invoice_id)
        .limit(limit)
    )
    return list(connection.scalars(query))


def failures_not_alerted(connection: Connection, limit: int) -> list[FailedPayment]:
    """Return the failed payments of standing bills that operators were not alerted on, by month and user."""
    key = words(f"{FAILED}:", payments.c.stripe_invoice_id, ":", payments.c.failed_attempts)
    query = (
        sa.select(
            *(invoices.c[name] for name in ("stripe_invoice_id", "month", "user_id", "currency")),
            (payments.c.amount_due_cents - payments.c.amount_paid_cents).label("due_cents"),
            *(payments.c[name] for name in ("failed_attempts", "next_attempt_at", "decline_code", "message")),
        )
        .join(payments, invoices.c.stripe_invoice_id == payments.c.stripe_invoice_id)
        .where(_IS_FAILING, invoices.c.state == State.PAYMENT_FAILED.value, ~is_put(key, ALERTS))
        .order_by(invoices.c.month, invoices.c.user_id)
        .limit(limit)
    )
    return read_as(connection, FailedPayment, query)


_ASKED = "asked"
"""The outcome of a step from before the request until its answer is known."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step for one invoice. `step` counts days since finalization."""

    stripe_invoice_id: str
    step: int
    asked_at: datetime
    outcome: str


def unanswered_steps(connection: Connection, limit: int) -> list[Step]:
    """Return the steps that were begun and whose answer is not known, oldest first."""
    query = sa.select(dunning).where(dunning.c.outcome == _ASKED).order_by(dunning.c.asked_at).limit(limit)
    return read_as(connection, Step, query)


def due_steps(
    connection: Connection, days: Sequence[int], *, now: datetime, at_most_late: timedelta, limit: int
) -> list[tuple[str, int]]:
    """Return invoices that are still open in the ledger, each with the latest step that is due, if not begun.

    `days` are the steps, in days since finalization; one that was due longer ago than `at_most_late` is left
    out. So are invoices that were sent to be paid by transfer: Stripe has nothing to charge.
    """
    # The terms of such a bill begin with what is not usual.
    by_transfer = sa.func.coalesce(invoices.c.terms, "").startswith('{"collection":"send"', autoescape=True)
    later = sa.exists().where(
        dunning.c.stripe_invoice_id == invoices.c.stripe_invoice_id, dunning.c.step >= sa.bindparam("step")
    )
    found: dict[str, int] = {}
    for step in sorted(days, reverse=True):
        due_since = now - timedelta(days=step)
        query = (
            sa.select(invoices.c.stripe_invoice_id)
            .where(
                of_drafted_months(),
                invoices.c.state.in_([*UNSETTLED]),
                invoices.c.stripe_invoice_id.is_not(None),
                invoices.c.finalized_at <= due_since,
                invoices.c.finalized_at > due_since - at_most_late,
                ~by_transfer,
                ~later,
            )
            .order_by(invoices.c.finalized_at, invoices.c.id)
            .limit(limit)
        )
        for invoice_id in connection.scalars(query, {"step": step}):
            found.setdefault(invoice_id, step)
    return sorted(found.items(), key=lambda each: -each[1])[:limit]


def begin_step(connection: Connection, invoice_id: str, step: int) -> bool:
    """Note that a step is about to be asked; False when it was begun before."""
    row = {"stripe_invoice_id": invoice_id, "step": step, "asked_at": datetime.now(UTC), "outcome": _ASKED}
    return insert_new(connection, dunning, [row]) == 1


def end_step(connection: Connection, invoice_id: str, step: int, outcome: str) -> None:
    """Record the outcome of a step."""
    where = (dunning.c.stripe_invoice_id == invoice_id, dunning.c.step == step)
    connection.execute(dunning.update().where(*where).values(outcome=outcome[:80]))


def steps_of(connection: Connection, invoice_ids: Sequence[str]) -> list[Step]:
    """Return the steps of invoices, in order."""
    query = sa.select(dunning).where(dunning.c.stripe_invoice_id.in_(list(invoice_ids)))
    return read_as(connection, Step, query.order_by(dunning.c.stripe_invoice_id, dunning.c.step))
