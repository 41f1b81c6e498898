"""Sums over a month's bills, for checks, status and reports."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.schema import invoices

_SUMMED_DIGITS = 15
_SUMMED = ("total_cents", "carried_cents", "covered_cents", "late_cents", "credit_applied_cents")


@dataclass(frozen=True, slots=True)
class GroupTotals:
    """Users, calls and amounts of the bills that share state, reason and currency.

    `calls` and `usage_cents` (exact) count what an adopted invoice left out: it is owed to a later invoice.
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


def latest_generation(month: Month) -> sa.ColumnElement[bool]:
    """Return the condition that chooses each user's latest bill of the month."""
    older, newer = invoices.alias(), invoices.alias()
    # Few bills have a second generation: to list what those replaced costs half of asking about every bill.
    replaced = sa.select(older.c.id).where(
        newer.c.month == str(month),
        newer.c.generation > 1,
        older.c.month == newer.c.month,
        older.c.user_id == newer.c.user_id,
        older.c.generation < newer.c.generation,
    )
    return sa.and_(invoices.c.month == str(month), invoices.c.id.not_in(replaced))


def group_totals(connection: Connection, month: Month) -> list[GroupTotals]:
    """Sum the month's latest bills by state, reason and currency."""
    by = (invoices.c.state, invoices.c.reason, invoices.c.currency)
    return [
        GroupTotals(State(state), Reason(reason) if reason else None, currency, *usage, *map(int, sums))
        for (state, reason, currency), usage, sums in _sums(connection, month, by, _SUMMED)
    ]


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
    """Sum users, calls and the exact usage that the month's latest bills stand for.

    Usage that an adopted invoice left out counts: it is owed to a later invoice.
    """
    ((_, usage, _),) = _sums(connection, month, by=(), summed=())
    return usage


def usage_by_currency(connection: Connection, month: Month) -> list[tuple[str, int, Decimal]]:
    """Return currency, users and exact usage of the month's latest bills; the most usage comes first."""
    sums = _sums(connection, month, by=(invoices.c.currency,), summed=())
    found = [(currency, users, usage_cents) for (currency,), (users, _, usage_cents), _ in sums]
    return sorted(found, key=lambda each: (-each[2], each[0]))


def _sums(
    connection: Connection, month: Month, by: Sequence[sa.Column[str]], summed: Sequence[str]
) -> Iterator[tuple[Any, tuple[int, int, Decimal], Sequence[Any]]]:
    """Return for each group its key; users, calls and exact usage; and the sums asked for."""
    exact = connection.dialect.name == "postgresql"
    usage = (invoices.c.usage_cents, invoices.c.unbilled_usage_cents)
    query = (
        sa.select(
            *by,
            *(sa.func.sum(invoices.c[name]) for name in summed),
            sa.func.count(),
            sa.func.sum(invoices.c.calls + invoices.c.unbilled_calls),
            *(sa.func.sum(column) if exact else _sum_of_whole_cents(column) for column in usage),
            *(sa.literal(0) if exact else sa.func.sum(~_is_whole(column)) for column in usage),
        )
        .where(latest_generation(month))
        .group_by(*by)
        .order_by(*by)
    )
    rows: Sequence[Any] = connection.execute(query).all()
    amounts: defaultdict[Any, list[Decimal]] = defaultdict(list)
    for place, column in enumerate(usage, start=-len(usage)):
        if any(row[place] for row in rows):
            rest = sa.select(*by, column).where(latest_generation(month), ~_is_whole(column))
            for *group, amount in connection.execute(rest):
                amounts[tuple(group)].append(amount)
    for row in rows:
        key, (*sums, users, calls), cents = tuple(row[: len(by)]), row[len(by) : -4], row[-4:-2]
        usage_cents = exact_sum(*(Decimal(each or 0) for each in cents), *amounts[key])
        yield key, (users, int(calls or 0), usage_cents), sums


def _sum_of_whole_cents(column: sa.Column[Decimal]) -> sa.ColumnElement[int]:
    """Sum the amounts that SQLite can sum exactly, as integers: its sum refuses to overflow."""
    return sa.func.sum(sa.case((_is_whole(column), sa.cast(column, sa.BigInteger)), else_=0))


def _is_whole(column: sa.Column[Decimal]) -> sa.ColumnElement[bool]:
    text = sa.cast(column, sa.String)
    return sa.and_(text.not_like("%.%"), sa.func.length(text) <= _SUMMED_DIGITS)
