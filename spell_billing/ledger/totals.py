"""Sums over months' bills, for checks, status and reports, and for the review of a month's drafts."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.lines import FORGIVEN, load_lines
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, Reason, State
from spell_billing.core.plausible import Usual
from spell_billing.core.review_prices import BilledTwice
from spell_billing.core.terms import LEFT_OUT, ON, load_terms
from spell_billing.ledger.column_types import above_zero, amount_of, outcome, read_as
from spell_billing.ledger.queries import WITH_REASON, is_replaced, latest_generation, started_months
from spell_billing.ledger.reviews import DecisionKind
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.schema import decisions, invoices

_SUMMED = (
    *("total_cents", "carried_cents", "covered_cents", "plan_cents", "late_cents", "credit_applied_cents"),
    *("tax_cents", "discount_cents"),
)
_CHARGED_CENTS = above_zero(invoices.c.total_cents)


@dataclass(frozen=True, slots=True)
class GroupTotals:
    """Users, calls and amounts of the bills that share state, reason and currency.

    `calls` and `usage_cents` (exact) count what an adopted invoice left out: it is owed to a later invoice.
    `charged_users` have a bill above zero, and owe `charged_cents`. `tax_cents` is what Stripe put on top,
    `discount_cents` what coupons took off, `without_tax` counts invoices without the tax that was asked for.
    """

    state: State
    reason: Reason | None
    currency: str
    users: int
    usage_cents: Decimal
    calls: int
    total_cents: int
    carried_cents: int
    covered_cents: int
    plan_cents: int
    late_cents: int
    credit_applied_cents: int
    tax_cents: int
    discount_cents: int
    charged_users: int
    charged_cents: int
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
    bill = invoices.c
    by = (bill.state, bill.reason, bill.currency)
    summed = {
        "calls": bill.calls + bill.unbilled_calls,
        **{name: bill[name] for name in _SUMMED},
        "charged_users": sa.case((bill.total_cents > 0, 1), else_=0),
        "charged_cents": _CHARGED_CENTS,
        "without_tax": sa.case((_is_without_tax(), 1), else_=0),
    }
    query = (
        sa.select(*by, sa.func.count().label("users"), *_exact_sums(connection))
        .add_columns(*(_sum(each).label(name) for name, each in summed.items()))
        .where(latest_generation(month))
        .group_by(*by)
        .order_by(*by)
    )
    found = []
    for state, reason, currency, users, usage, unbilled, *sums in connection.execute(query):
        group = outcome(State, state), outcome(Reason, reason) if reason else None, currency
        found.append(GroupTotals(*group, users, _added_up(usage, unbilled), *sums))
    return found


def month_groups(connection: Connection, months: Collection[Month]) -> list[MonthGroup]:
    """Count the latest bills of several months by state, reason and currency.

    Most come from an index alone, which has no reason in it; the reason is asked for where few bills are. A
    bill that a later generation replaced was voided before, so only void bills need to be asked about.
    """
    few = invoices.c.state.in_([state.value for state in WITH_REASON])
    latest = sa.or_(invoices.c.state != State.VOID.value, ~is_replaced())
    by = (invoices.c.month, invoices.c.state, invoices.c.currency)
    counted = (sa.func.count().label("bills"), _sum(_CHARGED_CENTS).label("total_cents"))
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
    bill = invoices.c
    query = sa.select(
        sa.func.count(), _sum(bill.calls + bill.unbilled_calls), *_exact_sums(connection)
    ).where(latest_generation(month))
    users, calls, *texts = connection.execute(query).one()
    return users, calls, _added_up(*texts)


def _exact_sums(connection: Connection) -> list[sa.ColumnElement[Any]]:
    # SQLite keeps exact amounts as text, and would sum them as floats: there they are summed by `_added_up`.
    exact = sa.func.sum if connection.dialect.name == "postgresql" else sa.func.group_concat
    return [exact(invoices.c.usage_cents), exact(invoices.c.unbilled_usage_cents)]


def _added_up(*sums: object) -> Decimal:
    texts = [str(each) for each in sums if each is not None]
    return exact_sum(*(amount_of(each) for text in texts for each in text.split(",")))


def charged_by_currency(groups: Iterable[GroupTotals]) -> dict[str, int]:
    """Sum what the bills above zero charge by currency, but for void ones."""
    cents: Counter[str] = Counter()
    for group in groups:
        if group.charged_users and group.state is not State.VOID:
            cents[group.currency] += group.charged_cents
    return dict(cents)


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


def _sum(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.cast(sa.func.coalesce(sa.func.sum(column), 0), sa.BigInteger)


_COMPARED_MONTHS = 3
_THEN, _NOW = invoices.alias(), invoices.alias()


def users_without(connection: Connection, month: Month, reason: Reason) -> list[str]:
    """Return the users whose bill charges something and waits for the reason."""
    query = sa.select(invoices.c.user_id).where(
        invoices.c.month == str(month), invoices.c.total_cents > 0, invoices.c.reason == reason.value
    )
    return list(connection.scalars(query.order_by(invoices.c.user_id)))


def billed_twice(connection: Connection, before: str, month: str) -> list[BilledTwice]:
    """Count who is charged in both months, by the currencies and terms of the bills."""
    by = (_THEN.c.currency, _NOW.c.currency, _THEN.c.terms, _NOW.c.terms)
    query = _charged_in_both(before, month, *by, sa.func.count()).group_by(*by)
    return [
        BilledTwice(currency_then, currency, load_terms(terms_then), load_terms(terms), users)
        for currency_then, currency, terms_then, terms, users in connection.execute(query)
    ]


def swapped_customers(connection: Connection, before: str, month: str) -> list[str]:
    """Return users whose customer another user had in the month before, who has another one now as well."""
    then, now = _THEN.c.stripe_customer_id, _NOW.c.stripe_customer_id
    query = _charged_in_both(before, month, _NOW.c.user_id, then, now).where(then != now)
    changed = connection.execute(query).all()
    left = {customer_then for _, customer_then, _ in changed}
    return sorted(user_id for user_id, _, customer in changed if customer in left)


def _charged_in_both(before: str, month: str, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Select from pairs of a user's bills of two months that both charge something."""
    return (
        sa.select(*columns)
        .select_from(_THEN.join(_NOW, _THEN.c.user_id == _NOW.c.user_id))
        .where(_THEN.c.month == before, _THEN.c.total_cents > 0, _THEN.c.state != State.VOID.value)
        .where(_NOW.c.month == month, _NOW.c.total_cents > 0, _NOW.c.state != State.VOID.value)
    )


def small_amounts(connection: Connection, month: str) -> list[tuple[Reason, str, int]]:
    """Sum what is too small to be charged: why there is no invoice, the currency, minor units above zero."""
    bill, reasons = invoices.c, (Reason.SMALL_CARRIED, Reason.SMALL_FORGIVEN)
    query = sa.select(bill.reason, bill.currency, bill.carried_cents, bill.lines).where(
        bill.month == month,
        bill.state == State.SKIPPED.value,
        bill.reason.in_([each.value for each in reasons]),
    )
    sums: Counter[tuple[Reason, str]] = Counter()
    for reason, currency, carried_cents, lines in connection.execute(
        query.execution_options(yield_per=5_000)
    ):
        forgiven = (line.amount_cents for line in load_lines(lines) if line.kind == FORGIVEN)
        sums[Reason(reason), currency] -= carried_cents + sum(forgiven)
    return [(*of, cents) for of, cents in sums.items()]


def billed_before(connection: Connection, month: Month) -> list[MonthRecord]:
    """Return the last three months before it whose billing has started, the newest first."""
    earlier = [each for each in started_months(connection) if each.month < str(month)]
    return earlier[::-1][:_COMPARED_MONTHS]


def first_started(connection: Connection) -> tuple[str, datetime] | None:
    """Return the earliest month whose billing has started, and when it did; None where there is none."""
    started = started_months(connection)
    return next(((each.month, at) for each in started if (at := each.billing_started_at)), None)


def usual_amounts(
    connection: Connection, before: Sequence[MonthRecord], users: sa.Select[tuple[str]]
) -> dict[tuple[str, str], Usual]:
    """Return what users were charged in the months before, by user and currency."""
    if not before:
        return {}
    by = (invoices.c.user_id, invoices.c.currency)
    query = (
        sa.select(*by, sa.func.sum(_CHARGED_CENTS), sa.func.count(invoices.c.month.distinct()))
        .where(invoices.c.month.in_([record.month for record in before]), invoices.c.user_id.in_(users))
        .where(invoices.c.state != State.VOID.value)
        .group_by(*by)
    )
    return {
        (user_id, currency): Usual(int(total), months)
        for user_id, currency, total, months in connection.execute(query)
    }


def other_currencies(connection: Connection, month: str, usual: str) -> dict[str, str]:
    """Return the currency of the users of a month who were billed in another one than most."""
    query = sa.select(invoices.c.user_id, invoices.c.currency).where(
        invoices.c.month == month, invoices.c.currency != usual
    )
    return {row.user_id: row.currency for row in connection.execute(query)}


def calls_of(connection: Connection, month: str, users: Collection[str]) -> dict[str, int]:
    """Return how many calls of the month these users were billed for."""
    calls = sa.func.max(invoices.c.calls).label("calls")
    query = sa.select(invoices.c.user_id, calls).where(invoices.c.month == month)
    rows = connection.execute(query.group_by(invoices.c.user_id))
    return {row.user_id: row.calls for row in rows if row.user_id in users}


def last_approved(connection: Connection, before: Month) -> str:
    """Return the newest month before whose review a person approved; empty when there is none."""
    query = sa.select(sa.func.max(decisions.c.month)).where(
        decisions.c.kind == DecisionKind.APPROVED.value, decisions.c.month < str(before)
    )
    return connection.scalar(query) or ""
