"""One user's usage and account as the platform has them now, for a page that waits for it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from spell_billing.core.drafting import Account
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.databases import DatabaseUrl
from spell_billing.usage.contract import DayUsage, SourceRules, UsageSource
from spell_billing.usage.source import open_usage_source

_PAGE_RULES = SourceRules(longest_query=timedelta(seconds=5))
"""A page does not wait longer for a query."""

_LOOKED_BACK = 12
"""Months; late usage is looked for as far back."""


@dataclass(frozen=True, slots=True)
class UserMonth:
    """One user's month as the platform has it now: the days (UTC) with calls, oldest first, exact costs."""

    days: tuple[DayUsage, ...]

    @property
    def calls(self) -> int:
        """How many calls there are."""
        return sum(day.calls for day in self.days)

    @property
    def cost_cents(self) -> Decimal:
        """What they cost in all, in (possibly fractional) cents."""
        return exact_sum(*(day.cost_cents for day in self.days))


@dataclass(frozen=True)
class OneUser:
    """The users of a usage source, one at a time. Raises what the source raises."""

    source: UsageSource

    def month(self, user_id: str, month: Month) -> UserMonth:
        """Count and add up the user's calls of a month; no calls where nobody has the id."""
        return UserMonth(self.source.user_days(user_id, month))

    def account(self, user_id: str) -> Account | None:
        """Return the user's billing account and plan as drafting takes them; None without one."""
        for row in self.source.accounts([user_id]).to_pylist():
            # Some collations take other spellings of an id for equal.
            if row["user_id"] == user_id:
                return Account(
                    row["stripe_customer_id"],
                    row["currency"],
                    row["plan_id"],
                    row["plan_name"],
                    row["included_cents"] or 0,
                )
        return None


def open_one_user(url: DatabaseUrl) -> OneUser:
    """Return the users of the source that a URL names; nothing is connected before the first call."""
    return OneUser(open_usage_source(url, _PAGE_RULES))


def is_at_platform(users: OneUser, user_id: str, *, since: Month, now: datetime) -> bool:
    """Tell whether a user has an account, or calls in a month from `since` on."""
    if users.account(user_id) is not None:
        return True
    month, present = since, Month.containing(now)
    while month <= present:
        if users.month(user_id, month).calls:
            return True
        month = month.next()
    return False


def has_usage(users: OneUser, user_id: str, now: datetime) -> bool:
    """Tell whether a user has an account, or calls in this month or one of the twelve before."""
    return is_at_platform(users, user_id, since=Month.containing(now).plus(-_LOOKED_BACK), now=now)
