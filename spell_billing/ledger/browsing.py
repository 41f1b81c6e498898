"""What pages show of the ledger: a user's bills, a month's users, in pages; and how a month changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.simulation import UserChange
from spell_billing.ledger.charges import read_charges
from spell_billing.ledger.column_types import above_zero, read_as
from spell_billing.ledger.payments import Payment, read_payment
from spell_billing.ledger.queries import WITH_REASON, of_drafted_months
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import invoices

BillKey = tuple[str, int]
"""The user and generation of a bill in a month, or the month and generation of a user's bill."""

LARGEST = 20
"""How many of a month's changes are listed."""

LISTED_BILL = (
    *("user_id", "generation", "state", "reason", "calls", "usage_cents", "total_cents", "currency"),
    *("stripe_customer_id", "stripe_invoice_id", "finalized_at"),
)


@dataclass(frozen=True, slots=True)
class UserBill:
    """One generation of a user's bill, with its payment; None while nothing is known of that."""

    bill: Bill
    payment: Payment | None
    refunded_cents: int = 0
    """What went back by refunds, or outside of Stripe."""
    disputed_cents: int = 0
    """What banks took back in disputes that are open or lost."""
    disputes: tuple[str, ...] = ()
    """How each dispute stands, in Stripe's words."""


@dataclass(frozen=True, slots=True)
class Search:
    """Which of a month's bills are wanted; None: any. `user` is a user id, or the beginning of one."""

    user: str | None = None
    customer: str | None = None
    invoice: str | None = None
    state: State | None = None
    reason: Reason | None = None


def has_bill(connection: Connection, user_id: str) -> bool:
    """Return whether the user ever had a bill."""
    query = sa.select(sa.exists().where(of_drafted_months(), invoices.c.user_id == user_id))
    return bool(connection.scalar(query))


def bills_of(
    connection: Connection, user_id: str, *, before: BillKey | None = None, limit: int
) -> list[UserBill]:
    """Return a page of the user's bills of all months, every generation, newest first.

    `before` is the month and generation of the last bill of the page before.
    """
    query = sa.select(invoices).where(of_drafted_months(), invoices.c.user_id == user_id)
    if before is not None:
        month, generation = before
        same = sa.and_(invoices.c.month == month, invoices.c.generation < generation)
        query = query.where(sa.or_(invoices.c.month < month, same))
    query = query.order_by(invoices.c.month.desc(), invoices.c.generation.desc()).limit(limit)
    return [with_payment(connection, bill) for bill in read_as(connection, Bill, query)]


def with_payment(connection: Connection, bill: Bill) -> UserBill:
    """Return a bill with its payment."""
    if bill.stripe_invoice_id is None:
        return UserBill(bill, None)
    payment = read_payment(connection, bill.stripe_invoice_id)
    charges = read_charges(connection, invoice_ids=[bill.stripe_invoice_id])
    refunded_cents = sum(each.refunded_cents for each in charges)
    if payment:
        refunded_cents += payment.returned_outside_cents
    disputed_cents = sum(each.disputed_cents for each in charges)
    disputes = tuple(each.dispute for each in charges if each.dispute)
    return UserBill(bill, payment, refunded_cents, disputed_cents, disputes)


def search_bills(
    connection: Connection, month: Month, search: Search, *, after: BillKey | None = None, limit: int
) -> list[dict[str, Any]]:
    """Return a page of the columns of `LISTED_BILL` of a month's bills, every generation, by user id.

    `after` is the user and generation of the last bill of the page before.
    """
    query = sa.select(*(invoices.c[name] for name in LISTED_BILL)).where(
        invoices.c.month == str(month), *_conditions(search)
    )
    if after is not None:
        user_id, generation = after
        same = sa.and_(invoices.c.user_id == user_id, invoices.c.generation > generation)
        query = query.where(sa.or_(invoices.c.user_id > user_id, same), invoices.c.user_id >= user_id)
    page = query.order_by(invoices.c.user_id, invoices.c.generation).limit(limit)
    return [dict(zip(LISTED_BILL, row, strict=True)) for row in connection.execute(page)]


def _conditions(search: Search) -> Iterator[sa.ColumnElement[bool]]:
    if search.user:
        # LIKE knows no difference between upper and lower case in SQLite.
        yield sa.func.substr(invoices.c.user_id, 1, len(search.user)) == search.user
    equal = {"stripe_customer_id": search.customer, "stripe_invoice_id": search.invoice}
    for name, value in (equal | {"state": search.state, "reason": search.reason}).items():
        if value:
            yield invoices.c[name] == value
    if search.reason:
        # Only bills in these states have a reason; to name them lets the index by state serve.
        yield invoices.c.state.in_([State.SKIPPED, *WITH_REASON])


@dataclass(frozen=True, slots=True)
class MonthChanges:
    """Users by how their totals changed, and the largest changes, the largest first."""

    counts: Mapping[str, int]
    largest: Sequence[UserChange]


def read_changes(connection: Connection, month: Month) -> MonthChanges:
    """Compare the bills of a month, void ones aside, with those of the month before. No currencies are added.

    Credits count as nothing, as in a month's totals.
    """
    is_now = invoices.c.month == str(month)
    cents = above_zero(invoices.c.total_cents)
    now = sa.func.sum(sa.case((is_now, cents), else_=0))
    before = sa.func.sum(sa.case((is_now, 0), else_=cents))
    users = (
        sa.select(
            invoices.c.user_id, invoices.c.currency, before.label("before_cents"), now.label("after_cents")
        )
        .where(
            invoices.c.month.in_([str(month), str(month.previous())]), invoices.c.state != State.VOID.value
        )
        .group_by(invoices.c.user_id, invoices.c.currency)
        .having(sa.or_(before != 0, now != 0))
        .subquery()
    )
    by = users.c.after_cents - users.c.before_cents
    change = sa.case(
        (users.c.before_cents == 0, "new"),
        (users.c.after_cents == 0, "gone"),
        (by > 0, "pay more"),
        (by < 0, "pay less"),
        else_="pay the same",
    )
    counts = connection.execute(sa.select(change, sa.func.count()).group_by(change))
    largest = connection.execute(
        sa.select(users).where(by != 0).order_by(sa.func.abs(by).desc(), users.c.user_id).limit(LARGEST)
    )
    order = ("new", "gone", "pay more", "pay less", "pay the same")
    found: dict[str, int] = {str(name): int(count) for name, count in counts}
    return MonthChanges(
        {name: found[name] for name in order if name in found},
        [
            UserChange(row.user_id, row.currency, int(row.before_cents), int(row.after_cents))
            for row in largest
        ],
    )
