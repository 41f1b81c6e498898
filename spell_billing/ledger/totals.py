"""Sums over a month's bills, for checks, status and reports."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, Reason, State
from spell_billing.core.terms import LEFT_OUT, ON
from spell_billing.ledger.queries import is_replaced, latest_generation
from spell_billing.ledger.schema import invoices

_SUMMED_DIGITS = 15
_WITH_REASON = (State.FAILED, State.HELD, State.PARKED, State.VOID, State.SETTLED)
_SUMMED = ("total_cents", "carried_cents", "covered_cents", "late_cents", "credit_applied_cents")


_INVOICED = invoices.c.state.in_([state.value for state in INVOICED])
_WITHOUT_TAX = sa.case(
    # Within a text of JSON, quotes would be escaped.
    (sa.and_(_INVOICED, invoices.c.terms.contains(f'"tax":"{LEFT_OUT}"')), 1),
    (sa.and_(_INVOICED, invoices.c.terms.contains(f'"tax":"{ON}"'), invoices.c.tax_cents.is_(None)), 1),
    else_=0,
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
    exact = connection.dialect.name == "postgresql"
    by = (invoices.c.state, invoices.c.reason, invoices.c.currency)
    usage = (invoices.c.usage_cents, invoices.c.unbilled_usage_cents)
    query = (
        sa.select(
            *by,
            sa.func.count(),
            sa.func.sum(invoices.c.calls + invoices.c.unbilled_calls),
            *(sa.func.sum(invoices.c[name]) for name in _SUMMED),
            *(sa.func.coalesce(sa.func.sum(invoices.c[name]), 0) for name in ("tax_cents", "discount_cents")),
            sa.func.coalesce(sa.func.sum(_WITHOUT_TAX), 0),
            *(sa.func.sum(column) if exact else _sum_of_whole_cents(column) for column in usage),
            *(sa.literal(0) if exact else sa.func.sum(~_is_whole(column)) for column in usage),
        )
        .where(latest_generation(month))
        .group_by(*by)
        .order_by(*by)
    )
    rows = connection.execute(query).all()
    amounts: defaultdict[Any, list[Decimal]] = defaultdict(list)
    for place, column in enumerate(usage, start=-len(usage)):
        if any(row[place] for row in rows):
            rest = sa.select(*by, column).where(latest_generation(month), ~_is_whole(column))
            for *group, amount in connection.execute(rest):
                amounts[tuple(group)].append(amount)
    return [
        GroupTotals(
            State(state),
            Reason(reason) if reason else None,
            currency,
            users,
            int(calls),
            exact_sum(*(Decimal(each) for each in rest[-4:-2]), *amounts[state, reason, currency]),
            *map(int, rest[:-4]),
        )
        for state, reason, currency, users, calls, *rest in rows
    ]


def month_groups(connection: Connection, months: Collection[Month]) -> list[MonthGroup]:
    """Count the latest bills of several months by state, reason and currency.

    Most come from an index alone, which has no reason in it; the reason is asked for where few bills are. A
    bill that a later generation replaced was voided before, so only void bills need to be asked about.
    """
    few = invoices.c.state.in_([state.value for state in _WITH_REASON])
    latest = sa.or_(invoices.c.state != State.VOID.value, ~is_replaced())
    charged = sa.case((invoices.c.total_cents > 0, invoices.c.total_cents), else_=0)
    found: list[MonthGroup] = []
    for reason, condition in (([], ~few), ([invoices.c.reason], sa.and_(few, latest))):
        by = (invoices.c.month, invoices.c.state, invoices.c.currency, *reason)
        query = (
            sa.select(*by, sa.func.count(), sa.func.sum(charged))
            .where(invoices.c.month.in_([str(month) for month in months]), condition)
            .group_by(*by)
        )
        for name, state, currency, *reasons, bills, total_cents in connection.execute(query):
            why = next((Reason(each) for each in reasons if each), None)
            found.append(MonthGroup(name, State(state), why, currency, bills, int(total_cents)))
    return sorted(found, key=lambda each: (each.month, each.state, str(each.reason), each.currency))


def first_users(connection: Connection, month: Month, group: GroupTotals, limit: int) -> list[str]:
    """Return the first users of a group, by user id."""
    reason = group.reason.value if group.reason else None
    rows = connection.execute(
        sa.select(invoices.c.user_id)
        .where(latest_generation(month), invoices.c.state == group.state.value)
        .where(invoices.c.reason == reason, invoices.c.currency == group.currency)
        .order_by(invoices.c.user_id)
        .limit(limit)
    )
    return list(rows.scalars())


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


def _sum_of_whole_cents(column: sa.Column[Decimal]) -> sa.ColumnElement[int]:
    """Sum the amounts that SQLite can sum exactly, as integers: its sum refuses to overflow."""
    return sa.func.sum(sa.case((_is_whole(column), sa.cast(column, sa.BigInteger)), else_=0))


def _is_whole(column: sa.Column[Decimal]) -> sa.ColumnElement[bool]:
    text = sa.cast(column, sa.String)
    return sa.and_(text.not_like("%.%"), sa.func.length(text) <= _SUMMED_DIGITS)
