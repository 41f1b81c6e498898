"""Sums over a month's bills, for checks, status and reports."""

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, Reason, State
from spell_billing.core.terms import LEFT_OUT, ON
from spell_billing.ledger.column_types import read_as
from spell_billing.ledger.queries import WITH_REASON, is_replaced, latest_generation
from spell_billing.ledger.schema import invoices

_SUMMED = (
    *("total_cents", "carried_cents", "covered_cents", "late_cents", "credit_applied_cents"),
    *("tax_cents", "discount_cents"),
)


@dataclass(frozen=True, slots=True)
class GroupTotals:
    """Users, calls and amounts of the bills that share state, reason and currency.

    `calls` and `usage_cents` (exact) count what an adopted invoice left out: it is owed to a later invoice.
    `tax_cents` is what Stripe put on top, `discount_cents` what coupons took off, `without_tax` counts
    invoices without the tax that was asked for.
    """

    state: State
    reason: Reason | None
    currency: str
    users: int
    calls: int
    usage_cents: Decimal
    total_cents: int
    carried_cents: int
    covered_cents: int
    late_cents: int
    credit_applied_cents: int
    tax_cents: int
    discount_cents: int
    without_tax: int


@dataclass(frozen=True, slots=True)
class MonthGroup:
    """Users of a month whose latest bills share state, reason and currency; what these charge.

    The reason of skipped bills, which may be most of a month, is left out.
    """

    month: str
    state: State
    reason: Reason | None
    currency: str
    bills: int
    total_cents: int


def group_totals(connection: Connection, month: Month) -> list[GroupTotals]:
    """Sum the month's latest bills by state, reason and currency."""
    by = (invoices.c.state, invoices.c.reason, invoices.c.currency)
    # SQLite keeps exact amounts as text, and would sum them as floats: they are summed here.
    exact = sa.func.sum if connection.dialect.name == "postgresql" else sa.func.group_concat
    query = (
        sa.select(
            *by,
            sa.func.count().label("users"),
            sa.func.sum(invoices.c.calls + invoices.c.unbilled_calls).label("calls"),
            exact(invoices.c.usage_cents).label("usage"),
            exact(invoices.c.unbilled_usage_cents).label("unbilled"),
            *(sa.func.coalesce(sa.func.sum(invoices.c[name]), 0).label(name) for name in _SUMMED),
            sa.func.sum(sa.case((_is_without_tax(), 1), else_=0)).label("without_tax"),
        )
        .where(latest_generation(month))
        .group_by(*by)
        .order_by(*by)
    )
    found = []
    for row in connection.execute(query).mappings():
        usage = (Decimal(each) for name in ("usage", "unbilled") for each in str(row[name]).split(","))
        sums = {name: int(row[name]) for name in ("users", "calls", *_SUMMED, "without_tax")}
        reason = Reason(row["reason"]) if row["reason"] else None
        found.append(
            GroupTotals(
                state=State(row["state"]),
                reason=reason,
                currency=row["currency"],
                usage_cents=exact_sum(*usage),
                **sums,
            )
        )
    return found


def month_groups(connection: Connection, months: Collection[Month]) -> list[MonthGroup]:
    """Count the latest bills of several months by state, reason and currency.

    Most come from an index alone, which has no reason in it; the reason is asked for where few bills are. A
    bill that a later generation replaced was voided before, so only void bills need to be asked about.
    """
    few = invoices.c.state.in_([state.value for state in WITH_REASON])
    latest = sa.or_(invoices.c.state != State.VOID.value, ~is_replaced())
    charged = sa.func.sum(sa.case((invoices.c.total_cents > 0, invoices.c.total_cents), else_=0))
    by = (invoices.c.month, invoices.c.state, invoices.c.currency)
    counted = (sa.func.count().label("bills"), sa.cast(charged, sa.BigInteger).label("total_cents"))
    found: list[MonthGroup] = []
    for group, reason, condition in (
        (by, sa.null().label("reason"), ~few),
        ((*by, invoices.c.reason), invoices.c.reason, sa.and_(few, latest)),
    ):
        query = (
            sa.select(*by, reason, *counted)
            .where(invoices.c.month.in_([str(month) for month in months]), condition)
            .group_by(*group)
        )
        found += read_as(connection, MonthGroup, query)
    return sorted(found, key=lambda each: (each.month, each.state, str(each.reason), each.currency))


def first_users(connection: Connection, month: Month, group: GroupTotals, limit: int) -> list[str]:
    """Return the first users of a group, by user id."""
    reason = group.reason.value if group.reason else None
    query = (
        sa.select(invoices.c.user_id)
        .where(latest_generation(month), invoices.c.state == group.state.value)
        .where(invoices.c.reason == reason, invoices.c.currency == group.currency)
        .order_by(invoices.c.user_id)
        .limit(limit)
    )
    return list(connection.scalars(query))


def drafted_usage(connection: Connection, month: Month) -> tuple[int, int, Decimal]:
    """Sum users, calls and the exact usage that the month's latest bills stand for."""
    groups = group_totals(connection, month)
    users, calls = sum(group.users for group in groups), sum(group.calls for group in groups)
    return users, calls, exact_sum(*(group.usage_cents for group in groups))


def usage_by_currency(connection: Connection, month: Month) -> dict[str, tuple[int, Decimal]]:
    """Return users and exact usage of the month's latest bills by currency; the most usage comes first."""
    found: dict[str, tuple[int, Decimal]] = {}
    for group in group_totals(connection, month):
        users, usage_cents = found.get(group.currency, (0, Decimal(0)))
        found[group.currency] = users + group.users, exact_sum(usage_cents, group.usage_cents)
    return dict(sorted(found.items(), key=lambda each: (-each[1][1], each[0])))


def _is_without_tax() -> sa.ColumnElement[bool]:
    # Within a text of JSON, quotes would be escaped.
    left_out = invoices.c.terms.contains(f'"tax":"{LEFT_OUT}"')
    not_computed = sa.and_(invoices.c.terms.contains(f'"tax":"{ON}"'), invoices.c.tax_cents.is_(None))
    return sa.and_(invoices.c.state.in_([*INVOICED]), sa.or_(left_out, not_computed))
