"""An open month in money: what its usage comes to so far, what the whole month may come to, and limits.

One function rates it for everybody who asks: a user's page and the API, spend limits, and the forecast.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext

from spell_billing.core.drafting import Account
from spell_billing.core.month import Month
from spell_billing.core.plans import MonthPlan
from spell_billing.core.pricing import Rating, rate

SOONEST = timedelta(days=1)
"""Of less than a day nothing can be said about a month."""
METHOD = (
    "An estimate: the usage so far, as if it went on evenly to the end of the month. Late usage of earlier "
    "months and credits are not in it."
)
FULL_PERCENT = 100
"""Of a limit: from here on the user is blocked."""
_DIGITS = 60
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Rated:
    """What a month comes to, in minor units: `usage_cents` - `covered_cents` + `plan_cents` = `due_cents`.

    `plan_cents` is what the month's fees, a minimum and discounts add and take off.
    """

    usage_cents: int
    covered_cents: int
    plan_cents: int
    due_cents: int


def rating_of(account: Account | None, plan: MonthPlan | None) -> Rating:
    """Return how a user's month is rated: by the user's plans, else by what the account includes.

    Plans in another currency than the account's add nothing: their bill fails (`plan_in_other_currency`).
    """
    if account is not None and plan is not None and set(plan.currencies) - {account.currency}:
        return Rating(0)
    return plan.rating if plan is not None else Rating(account.included_cents if account else 0)


def rate_open_month(usage_cents: Decimal, rating: Rating) -> Rated:
    """Rate exact usage of a month, with the month's fees, as the invoice will.

    What comes from other months is not in it: late usage, credits, and fees in advance.
    """
    rated = rate(usage_cents, rating)
    due_cents = rated.due_cents + rating.fee_cents
    plan_cents = due_cents - rated.usage_cents + rated.covered_cents
    return Rated(rated.usage_cents, rated.covered_cents, plan_cents, due_cents)


def projected_cents(usage_cents: Decimal, month: Month, now: datetime) -> Decimal | None:
    """Estimate the exact cost of a whole month from its cost so far, linear by the time that has passed.

    Returns:
        None before a day of the month has passed, and when it is over.
    """
    elapsed = _elapsed(month, now)
    return None if elapsed is None else _whole(usage_cents, *elapsed)


def _elapsed(month: Month, now: datetime) -> tuple[int, int] | None:
    """Return how much of a month has passed, and its length, in microseconds; None where it tells nothing."""
    passed, whole = now - month.start, month.end - month.start
    return (passed // _MICROSECOND, whole // _MICROSECOND) if SOONEST <= passed < whole else None


def _whole(usage_cents: Decimal, passed: int, whole: int) -> Decimal:
    with localcontext(prec=_DIGITS):
        return usage_cents * whole / passed


@dataclass(frozen=True, slots=True)
class Expected:
    """What users come to in one currency, in its minor units: so far, and by the end of the month.

    `expected_cents` is None where nothing can be said yet.
    """

    currency: str
    users: int
    so_far_cents: int
    expected_cents: int | None


def expected_totals(
    usage: Mapping[str, Decimal],
    accounts: Mapping[str, Account],
    month: Month,
    now: datetime,
    plan_of: Callable[[str], MonthPlan | None] = lambda _: None,
) -> list[Expected]:
    """Rate each user's usage so far and its projection, and add them up by currency.

    A user in credit is left out of the sums, as on the invoices of a month: nobody else owes less for it.

    A user without an account is rated without a plan, in the default currency; fees and minimums of `plan_of`
    count in full. `now` is when the usage was read, an aware datetime.
    """
    users, so_far, expected = Counter[str](), Counter[str](), Counter[str]()
    nobody, elapsed = Account(None), _elapsed(month, now)
    for user_id, usage_cents in usage.items():
        account = accounts.get(user_id, nobody)
        users[account.currency] += 1
        rating = rating_of(account, plan_of(user_id))
        so_far[account.currency] += max(0, rate_open_month(usage_cents, rating).due_cents)
        if elapsed is not None:
            whole_month = rate_open_month(_whole(usage_cents, *elapsed), rating)
            expected[account.currency] += max(0, whole_month.due_cents)
    return [Expected(each, users[each], so_far[each], expected.get(each)) for each in sorted(users)]


def percent_used(so_far_cents: int, limit_cents: int | None) -> int | None:
    """Return how much of a limit is used, in whole percent, rounded down and never below zero.

    None where there is no limit, and of a limit of zero, of which there is no part.
    """
    if not limit_cents:
        return None
    return max(0, so_far_cents) * FULL_PERCENT // limit_cents


def is_blocked(so_far_cents: int, limit_cents: int | None) -> bool:
    """Return whether a user has reached the limit; one of zero is reached from the beginning."""
    return limit_cents is not None and so_far_cents >= limit_cents


def counted_as_told(percent: int, so_far_cents: int, of_cents: int, limit_cents: int) -> int:
    """Return the threshold that counts as told, in percent of the limit of now.

    Of a limit that was raised since `percent` of `of_cents` was told, what the user had come to then: so its
    own thresholds are told beyond that.
    """
    if limit_cents <= of_cents:
        return percent
    return min(percent, percent_used(so_far_cents, limit_cents) or 0)


def news(percents: Iterable[int], so_far_cents: int, limit_cents: int, told: int) -> int | None:
    """Return the threshold to tell of, in percent of the limit: the highest that is reached.

    None when none is, or when it is not higher than the one that was told last in the month (`told`, 0 for
    none). So nothing is told twice when usage vanishes, nor what was passed over.
    """
    used = percent_used(so_far_cents, limit_cents)
    reached = max((each for each in percents if used is not None and each <= used), default=0)
    return reached if reached > told else None
