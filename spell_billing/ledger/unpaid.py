"""Questions about invoices that are still to be paid: who is unread, failing, or not alerted on."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.outbox import ALERTS, is_put, words
from spell_billing.ledger.schema import audit, invoices, months, payments
from spell_billing.ledger.settling import BESIDE_RUNS, UNSETTLED, VoidedBill

_TO_FOLLOW = [State.DRAFTED.value, *(state.value for state in INVOICED)]
_UNSETTLED = [state.value for state in UNSETTLED]


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


@dataclass(frozen=True, slots=True)
class Unread:
    """Bills of a month whose invoices were not read since a time, beside all that have an invoice."""

    bills: int
    invoices: int
    last_finalized_at: datetime | None


def anything_to_follow(connection: Connection) -> bool:
    """Return whether any bill has an invoice at Stripe that stands, or may soon."""
    query = sa.select(invoices.c.id).where(
        invoices.c.month.in_(sa.select(months.c.month)),
        invoices.c.state.in_(_TO_FOLLOW),
        invoices.c.stripe_invoice_id.is_not(None),
    )
    return connection.execute(query.limit(1)).first() is not None


def bills_of_invoices(connection: Connection, invoice_ids: Collection[str]) -> dict[str, BillName]:
    """Return the bills that the ledger has for invoices, by invoice id."""
    query = sa.select(
        invoices.c.stripe_invoice_id, invoices.c.month, invoices.c.user_id, invoices.c.generation
    ).where(invoices.c.stripe_invoice_id.in_(list(invoice_ids)))
    return {invoice_id: BillName(*name) for invoice_id, *name in connection.execute(query)}


def invoices_of_customer(connection: Connection, customer_id: str) -> bool:
    """Return whether any bill has an invoice of a customer at Stripe."""
    query = sa.select(invoices.c.id).where(
        invoices.c.stripe_customer_id == customer_id, invoices.c.stripe_invoice_id.is_not(None)
    )
    return connection.execute(query.limit(1)).first() is not None


def unsettled_months(connection: Connection) -> list[str]:
    """Return the months with invoices that Stripe may still collect, oldest first."""
    query = (
        sa.select(invoices.c.month)
        .where(invoices.c.month.in_(sa.select(months.c.month)), invoices.c.state.in_(_UNSETTLED))
        .distinct()
        .order_by(invoices.c.month)
    )
    return list(connection.scalars(query))


def count_unread(connection: Connection, month: str, since: datetime) -> Unread:
    """Count the month's invoices that may still be collected and that were not read since a time."""
    unread = (
        sa.select(sa.func.count(), sa.func.max(invoices.c.finalized_at))
        .outerjoin(payments, payments.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .where(*_is_unread(month, since))
    )
    bills, last = connection.execute(unread).one()
    all_of_month = sa.select(sa.func.count()).where(
        invoices.c.month == month, invoices.c.stripe_invoice_id.is_not(None)
    )
    return Unread(bills, connection.scalar(all_of_month) or 0, last)


def unread_invoices(
    connection: Connection, month: str, since: datetime, *, after_id: int, limit: int
) -> list[tuple[int, str]]:
    """Return the next of the month's unread invoices: the bill's id and the invoice's."""
    query = (
        sa.select(invoices.c.id, invoices.c.stripe_invoice_id)
        .outerjoin(payments, payments.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .where(*_is_unread(month, since), invoices.c.id > after_id)
        .order_by(invoices.c.id)
        .limit(limit)
    )
    return [(bill_id, invoice_id) for bill_id, invoice_id in connection.execute(query)]


def _is_unread(month: str, since: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        invoices.c.month == month,
        invoices.c.state.in_(_UNSETTLED),
        invoices.c.stripe_invoice_id.is_not(None),
        sa.or_(payments.c.as_of.is_(None), payments.c.as_of < since),
    )


def failures_without_reason(connection: Connection, limit: int) -> list[str]:
    """Return invoices whose last failed attempt has no reason yet, the latest news first."""
    query = (
        sa.select(payments.c.stripe_invoice_id)
        .where(
            payments.c.status == "open",
            payments.c.failed_attempts > 0,
            payments.c.decline_code.is_(None),
        )
        .order_by(payments.c.as_of.desc(), payments.c.stripe_invoice_id)
        .limit(limit)
    )
    return list(connection.scalars(query))


FAILED = "payment_failed"
"""The kind of alert; `payment_failed:<invoice>:<attempt>` names a failure in the outbox."""


def failures_not_alerted(connection: Connection, limit: int) -> list[FailedPayment]:
    """Return the failed payments of standing bills that operators were not alerted on, by month and user."""
    key = words(f"{FAILED}:", payments.c.stripe_invoice_id, ":", payments.c.failed_attempts)
    query = (
        sa.select(
            payments.c.stripe_invoice_id,
            invoices.c.month,
            invoices.c.user_id,
            invoices.c.currency,
            payments.c.amount_due_cents - payments.c.amount_paid_cents,
            payments.c.failed_attempts,
            payments.c.next_attempt_at,
            payments.c.decline_code,
            payments.c.message,
        )
        .join(invoices, invoices.c.stripe_invoice_id == payments.c.stripe_invoice_id)
        .where(
            payments.c.status == "open",
            payments.c.failed_attempts > 0,
            invoices.c.state == State.PAYMENT_FAILED.value,
            ~is_put(key, ALERTS),
        )
        .order_by(invoices.c.month, invoices.c.user_id)
        .limit(limit)
    )
    return [FailedPayment(*row) for row in connection.execute(query)]


def last_act(connection: Connection, bill: VoidedBill) -> str | None:
    """Return the last audited action on a bill, but for those that come beside runs."""
    query = (
        sa.select(audit.c.action)
        .where(
            audit.c.month == bill.month,
            audit.c.user_id == bill.user_id,
            audit.c.generation == bill.generation,
            audit.c.action.not_in(BESIDE_RUNS),
        )
        .order_by(audit.c.id.desc())
        .limit(1)
    )
    action: str | None = connection.scalar(query)
    return action
