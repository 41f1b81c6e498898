"""Sums over a month's bills, for checks, status and reports."""

from dataclasses import dataclass
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.schema import invoices

_SUMMED = ("total_cents", "carried_cents", "covered_cents", "late_cents", "credit_applied_cents")


@dataclass(frozen=True, slots=True)
class GroupTotals:
    """Users, calls and amounts of the bills that share state, reason and currency."""

    state: State
    reason: Reason | None
    currency: str
    users: int
    calls: int
    total_cents: int
    carried_cents: int
    covered_cents: int
    late_cents: int
    credit_applied_cents: int


def latest_generation(month: Month) -> sa.ColumnElement[bool]:
    """Give the condition that chooses each user's latest bill of the month."""
    newer = invoices.alias()
    return sa.and_(
        invoices.c.month == str(month),
        ~sa.exists().where(
            newer.c.month == invoices.c.month,
            newer.c.user_id == invoices.c.user_id,
            newer.c.generation > invoices.c.generation,
        ),
    )


def group_totals(connection: Connection, month: Month) -> list[GroupTotals]:
    """Sum the month's latest bills by state, reason and currency."""
    columns = (invoices.c.state, invoices.c.reason, invoices.c.currency)
    rows = connection.execute(
        sa.select(
            *columns,
            sa.func.count(),
            sa.func.sum(invoices.c.calls + invoices.c.unbilled_calls),
            *(sa.func.sum(invoices.c[name]) for name in _SUMMED),
        )
        .where(latest_generation(month))
        .group_by(*columns)
        .order_by(*columns)
    ).all()
    return [
        GroupTotals(State(state), Reason(reason) if reason else None, currency, users, *map(int, sums))
        for state, reason, currency, users, *sums in rows
    ]


def first_users(connection: Connection, month: Month, group: GroupTotals, limit: int) -> list[str]:
    """Give the first users of a group, by user id."""
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
    latest = latest_generation(month)
    users, calls = connection.execute(
        sa.select(sa.func.count(), sa.func.sum(invoices.c.calls + invoices.c.unbilled_calls)).where(latest)
    ).one()
    amounts = (
        amount
        for column in (invoices.c.usage_cents, invoices.c.unbilled_usage_cents)
        for amount in _sums(connection, column, latest)
    )
    return users, int(calls or 0), exact_sum(*amounts)


def _sums(
    connection: Connection, column: sa.Column[Decimal], condition: sa.ColumnElement[bool]
) -> list[Decimal]:
    """Sum an exact column: in the database where that is exact, else whole cents there and fractions here."""
    if connection.dialect.name == "postgresql":
        total: Decimal | None = connection.scalar(sa.select(sa.func.sum(column)).where(condition))
        return [total or Decimal(0)]
    text = sa.cast(column, sa.String)
    # Texts of up to 15 digits: SQLite's sum of integers is exact, and refuses to overflow.
    whole = sa.and_(text.not_like("%.%"), sa.func.length(text) <= 15)  # noqa: PLR2004 - said above
    summed: int | None = connection.scalar(
        sa.select(sa.func.sum(sa.cast(text, sa.BigInteger))).where(condition, whole)
    )
    others = connection.execute(sa.select(column).where(condition, ~whole)).scalars()
    return [Decimal(summed or 0), *others]
