"""Gathers what a month is charged by, then and now, for the rules that find what is missed of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.core.review import Code, Finding, ReviewRules
from spell_billing.core.review_prices import (
    first_price_findings,
    missing_plan_findings,
    price_findings,
    subscription_findings,
    terms_findings,
)
from spell_billing.ledger.moves import read_heirs
from spell_billing.ledger.reviews import findings_told
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.totals import billed_twice, swapped_customers
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.plan_book import running, subscriptions
from spell_billing.usage.prices import prices_of
from spell_billing.usage.store import UsageStore


def what_is_missed(
    connection: Connection,
    store: UsageStore,
    frozen: FrozenUsage,
    accounts: Callable[[], pa.Table],
    *,
    rules: ReviewRules,
    previous: Sequence[MonthRecord],
) -> list[Finding]:
    """Find subscriptions, prices and terms of the month billed before that the month is without.

    `previous` are the months billed before, the newest first: of a first month, calls are missed that no
    card prices. Plans that only accounts name are missed until a month with them was approved; `accounts` is
    read for these, and where subscriptions are missed.
    """
    month, found, rates = frozen.month, list[Finding](), frozen.manifest.rates
    if not previous and rates is not None:
        found += first_price_findings(str(month), prices_of(frozen))
    for record in previous[:1]:
        pairs = billed_twice(connection, record.month, str(month))
        swapped = swapped_customers(connection, record.month, str(month))
        found += terms_findings(str(month), pairs, swapped, than=record.month)
        now = prices_of(frozen)
        # Where the evidence of the month before is lost, the freeze has said so.
        with suppress(UsageError):
            before = store.version(Month.parse(record.month), record.usage_version)
            if before.month.next() == month:
                found += subscription_findings(*_subscribers(connection, before, frozen, accounts))
            found += price_findings(str(month), prices_of(before), now, rules, than=record.month)
    gone = any(each.code is Code.PRICES_GONE for each in found)
    if not gone and frozen.manifest.plans is None and (rates is None or rates.plans is None):
        told = {plan for _, data in findings_told(connection, Code.PLANS_MISSING) for plan in data["plans"]}
        named = _only_named(accounts())
        found += missing_plan_findings({plan: named[plan] for plan in named.keys() - told})
    return found


def _only_named(accounts: pa.Table) -> Counter[str]:
    """Count the accounts of each plan that nothing is known of; of an unknown one, the name is blank."""
    columns = (accounts[name].to_pylist() for name in ("plan_id", "plan_name"))
    return Counter(plan for plan, name in zip(*columns, strict=True) if name is None and (plan or "").strip())


def _subscribers(
    connection: Connection, before: FrozenUsage, frozen: FrozenUsage, accounts: Callable[[], pa.Table]
) -> tuple[set[str], set[str], set[str]]:
    """Return whose subscription ran on when the month before ended; whose of them vanished.

    And of these, who has an account, and did not move to another user.
    """
    month, now = frozen.month, subscriptions(frozen)
    ran_on = _named(running(subscriptions(before), month.start, month.start))
    users = {user for user, *_ in ran_on}
    on_another = set(running(now, month.start, month.end)["user_id"].to_pylist())
    gone = {user for user, *_ in ran_on - _named(now)} - on_another
    if not gone:
        return users, gone, gone
    heir_of = read_heirs(connection).heir_of
    staying = {user for user in gone & set(accounts()["user_id"].to_pylist()) if heir_of(user) == user}
    return users, gone, staying


def _named(subscribed: pa.Table) -> set[tuple[Any, ...]]:
    """Return subscriptions by what stays the same when one ends."""
    columns = (subscribed[name].to_pylist() for name in ("user_id", "plan_id", "starts_at"))
    return set(zip(*columns, strict=True))
