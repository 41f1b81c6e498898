"""What a month's review compares its drafts with: sums of earlier bills, each by one query."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.review import Usual
from spell_billing.ledger.queries import read_months
from spell_billing.ledger.reviews import DecisionKind
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.schema import decisions, invoices

_USERS_A_QUERY = 500
_COMPARED_MONTHS = 3
_STANDING = invoices.c.state != State.VOID.value


@dataclass(frozen=True, slots=True)
class Charged:
    """Bills of a month that charge something, by currency and reason: how many, and how much."""

    currency: str
    reason: Reason | None
    users: int
    cents: int


def charged(connection: Connection, month: str) -> list[Charged]:
    """Sum the month's bills that charge something and are not void."""
    query = (
        sa.select(
            invoices.c.currency, invoices.c.reason, sa.func.count(), sa.func.sum(invoices.c.total_cents)
        )
        .where(invoices.c.month == month, invoices.c.total_cents > 0, _STANDING)
        .group_by(invoices.c.currency, invoices.c.reason)
    )
    return [
        Charged(currency, Reason(reason) if reason else None, users, int(cents))
        for currency, reason, users, cents in connection.execute(query)
    ]


def users_without(connection: Connection, month: Month, reason: Reason) -> list[str]:
    """Return the users whose bill charges something and waits for the reason."""
    query = (
        sa.select(invoices.c.user_id)
        .where(invoices.c.month == str(month), invoices.c.total_cents > 0, invoices.c.reason == reason.value)
        .order_by(invoices.c.user_id)
    )
    return list(connection.execute(query).scalars())


def billed_before(connection: Connection, month: Month) -> list[MonthRecord]:
    """Return the last three months before it whose billing has started, the newest first."""
    started = [
        record
        for record in read_months(connection)
        if record.billing_started_at is not None and record.month < str(month)
    ]
    return started[::-1][:_COMPARED_MONTHS]


def usual_amounts(
    connection: Connection, before: Sequence[MonthRecord], users: sa.Select[tuple[str]]
) -> dict[tuple[str, str], Usual]:
    """Return what users were charged in the months before, by user and currency."""
    if not before:
        return {}
    query = (
        sa.select(
            invoices.c.user_id,
            invoices.c.currency,
            sa.func.sum(sa.case((invoices.c.total_cents > 0, invoices.c.total_cents), else_=0)),
            sa.func.count(invoices.c.month.distinct()),
        )
        .where(invoices.c.month.in_([record.month for record in before]), _STANDING)
        .where(invoices.c.user_id.in_(users))
        .group_by(invoices.c.user_id, invoices.c.currency)
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
    names, found = sorted(users), {}
    for first in range(0, len(names), _USERS_A_QUERY):
        query = (
            sa.select(invoices.c.user_id, sa.func.max(invoices.c.calls))
            .where(invoices.c.month == month)
            .where(invoices.c.user_id.in_(names[first : first + _USERS_A_QUERY]))
            .group_by(invoices.c.user_id)
        )
        found.update({user_id: int(calls) for user_id, calls in connection.execute(query)})
    return found


def last_approved(connection: Connection, before: Month) -> str:
    """Return the newest month before whose review a person approved; empty when there is none."""
    query = sa.select(sa.func.max(decisions.c.month)).where(
        decisions.c.kind == DecisionKind.APPROVED.value, decisions.c.month < str(before)
    )
    return connection.scalar(query) or ""
