"""Made-up source tables: months of API calls, the accounts and the plans behind them, for a demonstration."""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.demo import story
from spell_billing.demo.tables import (
    billing_accounts,
    billing_plans,
    metadata,
    plan_subscriptions,
    rate_cards,
    usage_counters,
)

MIN_USERS = 60
UNKNOWN_CUSTOMER_ID = "cus_demo_unknown"

_CALLS_PER_USER_AND_MONTH = 36
_PARETO_SHAPE = 1.1
_MONTHLY_GROWTH = 1.05
_REFUNDED_SHARE = 0.004
_QUIET_SHARE = 0.05
_CREDIT_CENTS = 400
_ENDPOINTS: tuple[tuple[str, int, int], ...] = (
    # endpoint, cents a call, how often it is called relative to the others
    ("GET /v1/words", 2, 30),
    ("POST /v1/check", 5, 34),
    ("POST /v1/suggest", 15, 18),
    ("POST /v1/translate", 40, 12),
    ("POST /v1/documents", 150, 6),
)
_FREE_ENDPOINT = "GET /v1/status"
_REFUNDS = "Refunds"
"""An item of its own: where a card prices calls, a row that refunds one would count as a call."""

_Role = Literal["ordinary", "no account", "no customer", "unknown customer", "declined", "free", "negative"]
_CAST: Mapping[_Role, int] = {
    "no account": 3,
    "no customer": 4,
    "unknown customer": 1,
    "declined": 3,
    "free": 12,
    "negative": 1,
}
"""How many users play each part; all others are ordinary."""


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What was filled in. `cents_by_month` has the exact sum of the rows of each month, the open one too."""

    closed_months: tuple[Month, ...]
    open_month: Month
    users: int
    rows: int
    cents_by_month: Mapping[Month, int]


@dataclass(frozen=True, slots=True)
class DemoCustomer:
    """A customer that Stripe is expected to have, and whether the saved card can be charged."""

    customer_id: str
    email: str
    card: Literal["ok", "declined"]


@dataclass(frozen=True, slots=True)
class _User:
    user_id: str
    role: _Role
    calls_per_month: float
    plan_id: str | None


def seed(
    engine: sa.Engine, *, now: datetime, users: int = 150, months: int = 4, seed: int = 1
) -> DemoSummary:
    """Create the source tables where they are missing and fill them, in one transaction.

    The same arguments give the same rows, about 36 calls per user and month; another `seed` gives another
    platform of the same kind. `months` closed months are filled, and the open one up to `now`. The user with
    the negative month has it in the last closed month but one, so that the credit shows on the last invoice.

    Raises:
        UsageError: when one of the tables already has rows: nothing is changed then.
        ValueError: when `users` or `months` is too small, or `now` has no time zone.
    """
    if users < MIN_USERS or months < 1:
        raise ValueError(f"a demonstration needs at least {MIN_USERS} users and 1 month")
    open_month = Month.containing(now)
    closed_months = tuple(open_month.plus(-back) for back in range(months, 0, -1))
    # Repeatable on purpose: the rows are a demonstration, not a secret.
    rng = random.Random(seed)  # noqa: S311
    people = _cast_users(rng, users - len(story.CAST))
    rows: list[dict[str, Any]] = []
    cents_by_month = {}
    for index, month in enumerate((*closed_months, open_month)):
        until = min(month.end, now.astimezone(UTC))
        share = (until - month.start) / (month.end - month.start) * _MONTHLY_GROWTH**index
        of_month = [
            row for user in people for row in _usage(rng, user, start=month.start, until=until, share=share)
        ]
        of_month += story.calls(month, until)
        if month == closed_months[-2:][0]:
            of_month += _large_refund(people, of_month, at=month.end - timedelta(days=1))
        cents_by_month[month] = sum(row["cost_cents"] for row in of_month)
        rows += sorted(of_month, key=lambda row: row["created_at"])

    with engine.begin() as connection:
        metadata.create_all(connection)
        for table in metadata.sorted_tables:
            if connection.scalar(sa.select(sa.func.count()).select_from(table)):
                raise UsageError(
                    f"The table {table.name} already has rows: made-up ones would be billed with them.",
                    remedy="Give the demonstration a database of its own.",
                )
        connection.execute(billing_plans.insert(), list(story.PLANS))
        connection.execute(rate_cards.insert(), list(story.CARDS))
        connection.execute(plan_subscriptions.insert(), story.subscriptions(closed_months[-1]))
        accounts = [_account(user) for user in people if user.role != "no account"]
        connection.execute(billing_accounts.insert(), [*accounts, *story.accounts()])
        connection.execute(usage_counters.insert(), rows)
    return DemoSummary(closed_months, open_month, users, len(rows), cents_by_month)


def stripe_customers(engine: sa.Engine) -> list[DemoCustomer]:
    """List the customers that Stripe must have for the accounts that `seed` made, in the order of their ids.

    Without `UNKNOWN_CUSTOMER_ID`: that account points at a customer who does not exist.
    """
    columns = billing_accounts.c
    query = (
        sa.select(columns.stripe_customer_id, columns.email)
        .where(columns.stripe_customer_id.is_not(None), columns.stripe_customer_id != UNKNOWN_CUSTOMER_ID)
        .order_by(columns.stripe_customer_id)
    )
    with engine.connect() as connection:
        return [
            DemoCustomer(
                customer_id, email, "declined" if customer_id.startswith(story.DECLINED_PREFIX) else "ok"
            )
            for customer_id, email in connection.execute(query)
        ]


def _cast_users(rng: random.Random, count: int) -> list[_User]:
    roles = [role for role, size in _CAST.items() for _ in range(size)]
    roles += ["ordinary"] * (count - len(roles))
    rng.shuffle(roles)
    # The quantiles of the distribution, not draws from it: every seed gives the same skew and total.
    weights = [(1 - (rank + 0.5) / count) ** (-1 / _PARETO_SHAPE) for rank in range(count)]
    calls = [_CALLS_PER_USER_AND_MONTH * count * weight / sum(weights) for weight in weights]
    rng.shuffle(calls)
    return [
        _User(
            user_id=f"user-{number:04d}",
            role=role,
            # Those with a part to play call often enough to be seen, and never dominate.
            calls_per_month=volume if role == "ordinary" else min(max(volume, 15), 60),
            plan_id=_choose_plan(rng, volume) if role == "ordinary" else None,
        )
        for number, (role, volume) in enumerate(zip(roles, calls, strict=True), start=1)
    ]


def _choose_plan(rng: random.Random, calls_per_month: float) -> str | None:
    if rng.random() >= 1 / 3:
        return None
    return "team" if calls_per_month > 2 * _CALLS_PER_USER_AND_MONTH else "starter"


def _account(user: _User) -> dict[str, Any]:
    number = user.user_id.removeprefix("user-")
    odd_ids: Mapping[_Role, str | None] = {
        "no customer": None,
        "unknown customer": UNKNOWN_CUSTOMER_ID,
        "declined": f"{story.DECLINED_PREFIX}{number}",
    }
    return {
        "user_id": user.user_id,
        "stripe_customer_id": odd_ids.get(user.role, f"cus_demo_{number}"),
        "currency": "usd",
        "email": f"{user.user_id}@example.com",
        "plan_id": user.plan_id,
    }


def _usage(
    rng: random.Random, user: _User, *, start: datetime, until: datetime, share: float
) -> Iterator[dict[str, Any]]:
    """Return one user's rows from `start` to before `until`; `share` scales a full month's calls."""
    if user.role == "ordinary" and rng.random() < _QUIET_SHARE:
        return
    calls = math.floor(user.calls_per_month * share * rng.uniform(0.7, 1.3) + rng.random())
    microseconds = (until - start) // timedelta(microseconds=1)
    endpoints = rng.choices(_ENDPOINTS, weights=[weight for _, _, weight in _ENDPOINTS], k=calls)
    for endpoint, cents, _ in endpoints:
        at = start + timedelta(microseconds=rng.randrange(microseconds))
        if user.role == "free":
            yield _row(user, 0, at, _FREE_ENDPOINT)
            continue
        yield _row(user, cents, at, endpoint)
        refunded_at = at + timedelta(hours=rng.uniform(1, 72))
        if user.role == "ordinary" and rng.random() < _REFUNDED_SHARE and refunded_at < until:
            yield _row(user, -cents, refunded_at, _REFUNDS)


def _large_refund(
    people: list[_User], rows: list[dict[str, Any]], *, at: datetime
) -> Iterator[dict[str, Any]]:
    """Return more than the month's usage to the user whose month is to end below zero."""
    for user in people:
        if user.role == "negative":
            used = sum(row["cost_cents"] for row in rows if row["user_id"] == user.user_id)
            yield _row(user, -(used + _CREDIT_CENTS), at, _REFUNDS)


def _row(user: _User, cents: int, at: datetime, endpoint: str) -> dict[str, Any]:
    return {"user_id": user.user_id, "cost_cents": cents, "created_at": at, "endpoint": endpoint}
