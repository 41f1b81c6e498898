"""One user's usage of a month: as the platform has it now, or as it was frozen and billed."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, Field

from spell_billing.core.drafting import Account
from spell_billing.core.errors import IntegrityError, StoreError, UsageError
from spell_billing.core.money import exact_sum, format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.open_month import METHOD, projected_cents, rate_open_month, rating_of
from spell_billing.core.pricing import USUAL_RATING, Rating, load_rating
from spell_billing.ledger.browsing import has_bill
from spell_billing.ledger.rows import MonthRecord
from spell_billing.usage.accounts import DEFAULT_CURRENCY
from spell_billing.usage.aggregate import rows_of_user
from spell_billing.usage.contract import UserMonth
from spell_billing.usage.frozen import DayUsage
from spell_billing.usage.source import is_at_platform
from spell_billing.usage.store import open_usage_store
from spell_billing.web.api import Calls, Cents, Currency, Exact, Moment, Money, MonthName, MonthText, User
from spell_billing.web.context import WebContext


class _Charged(BaseModel):
    """What a month comes to: `usage_cents` - `covered_cents` + `plan_cents` = `due_cents`."""

    usage_cents: Cents = Field(description="The usage, rounded.")
    covered_cents: Cents = Field(description="What the plan's allowance covers of it.")
    plan_cents: Cents = Field(description="What fees, a minimum and discounts add and take off.")
    due_cents: Cents = Field(description="What is due for the month.")
    due: Money


class Day(BaseModel):
    """One day's calls."""

    day: date = Field(description="In UTC.")
    calls: Calls
    exact_usage_cents: Exact


class Projection(_Charged):
    """What the whole month may come to, linear by elapsed time."""

    method: str = Field(description="How it is estimated, for people.")


class Usage(_Charged):
    """A user's usage of a month."""

    user_id: User
    month: MonthText
    month_name: MonthName
    source: Literal["live", "frozen"] = Field(description="As it is now, or as it was billed.")
    as_of: Moment = Field(description="When it was read or frozen.")
    currency: Currency
    calls: Calls
    exact_usage_cents: Exact
    included_cents: int = Field(description="The plan's monthly allowance, in minor units.")
    days: list[Day] | None = Field(
        description="Days (UTC) with calls; null where rate cards price them, or frozen rows are not at hand."
    )
    projection: Projection | None = Field(description="For the present month after its first day.")


def read_usage(context: WebContext, user_id: str, month: Month) -> Usage | None:
    """Read a user's usage of a month that is not in the future.

    Returns:
        None for a user who is unknown: no bill, no account, and no calls in the month.

    Raises:
        UsageError: when the platform's tables cannot be read, or not in time.
        DatabaseUnreachableError: when its database does not answer.
    """
    record = context.ledger.month(month)
    if record is not None and record.billing_started_at is not None:
        return _frozen(context, user_id, month, record)
    now = context.clock()
    found = context.usage_source().spending(user_id, month, with_limit=False)
    if found.account is None and not found.month.calls and not context.ledger.read(has_bill, user_id):
        return None
    usage, currency = found.month, (found.account or Account(None)).currency
    rating = rating_of(found.account, found.plan)
    whole_month, projection = projected_cents(usage.cost_cents, month, now), None
    if whole_month is not None:
        projection = Projection(**_charged(whole_month, rating, currency), method=METHOD)
    # Rate cards price the month as a whole.
    days = usage.days if isinstance(usage, UserMonth) else None
    more = {"source": "live", "as_of": now, "calls": usage.calls, "projection": projection}
    return _usage(user_id, month, usage.cost_cents, rating, currency, days=days, **more)


def is_known(context: WebContext, user_id: str) -> bool:
    """Return whether the platform has the user: a bill, an account, or calls in the present month."""
    if context.ledger.read(has_bill, user_id):
        return True
    now = context.clock()
    source = context.usage_source()
    return is_at_platform(source, user_id, since=Month.containing(now), now=now)


def _frozen(context: WebContext, user_id: str, month: Month, record: MonthRecord) -> Usage | None:
    bills = context.ledger.bills_of_user(month, user_id)
    if not bills and not is_known(context, user_id):
        return None
    as_of, days = record.drafted_at, None
    # Frozen rows may lie on another machine, or in a backup; the ledger has what was billed.
    with suppress(UsageError, StoreError, IntegrityError):
        version = open_usage_store(context.settings.usage_store).version(month, record.usage_version)
        # Days have the stored cost, and rate cards price the month as a whole.
        if version.manifest.rates is None and not version.manifest.is_summed:
            days = rows_of_user(version, user_id)
        as_of = version.manifest.frozen_at
    calls, usage_cents, rating, currency = 0, Decimal(0), USUAL_RATING, DEFAULT_CURRENCY
    if bills:
        bill = bills[-1]
        calls = bill.calls + bill.unbilled_calls
        usage_cents = exact_sum(bill.usage_cents, bill.unbilled_usage_cents)
        rating, currency = load_rating(bill.rating, bill.included_cents), bill.currency
    more = {"source": "frozen", "as_of": as_of, "calls": calls, "projection": None}
    return _usage(user_id, month, usage_cents, rating, currency, days=days, **more)


def _usage(
    user_id: str,
    month: Month,
    usage_cents: Decimal,
    rating: Rating,
    currency: str,
    *,
    days: Sequence[DayUsage] | None,
    **more: Any,
) -> Usage:
    return Usage(
        user_id=user_id,
        month=str(month),
        month_name=month.label,
        currency=currency,
        exact_usage_cents=plain(usage_cents),
        included_cents=rating.included_cents,
        days=None if days is None else [_day(each) for each in days],
        **_charged(usage_cents, rating, currency),
        **more,
    )


def _day(usage: DayUsage) -> Day:
    return Day(day=usage.day, calls=usage.calls, exact_usage_cents=plain(usage.cost_cents))


def _charged(usage_cents: Decimal, rating: Rating, currency: str) -> dict[str, Any]:
    """Rate exact usage as the invoice will."""
    rated = rate_open_month(usage_cents, rating)
    return {**asdict(rated), "due": format_money(rated.due_cents, currency, grouping=True)}
