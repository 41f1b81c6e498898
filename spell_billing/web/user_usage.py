"""One user's usage of a month: as the platform has it now, or as it was frozen and billed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import Literal

from spell_billing.core.drafting import Account
from spell_billing.core.errors import UsageError
from spell_billing.core.money import exact_sum, format_money, round_half_up
from spell_billing.core.month import Month
from spell_billing.core.pricing import covered_cents, rate_cents
from spell_billing.ledger.browsing import has_bill
from spell_billing.ledger.rows import MonthRecord
from spell_billing.usage.aggregate import DayUsage, rows_of_user
from spell_billing.usage.one_user import open_one_user
from spell_billing.web.context import WebContext

SOONEST = timedelta(days=1)
"""Of less than a day nothing can be said about a month."""
METHOD = (
    "An estimate: the usage so far, as if it went on evenly to the end of the month. Late usage of earlier "
    "months and credits are not in it."
)
_DIGITS = 60
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Charge:
    """What usage comes to, in whole minor units: `usage_cents` - `covered_cents` = `due_cents`."""

    usage_cents: int
    covered_cents: int
    due_cents: int

    @classmethod
    def of(cls, usage_cents: Decimal, included_cents: int) -> "Charge":
        """Rate exact usage under a plan's allowance, as the invoice will."""
        return cls(
            round_half_up(usage_cents),
            covered_cents(usage_cents, included_cents),
            rate_cents(usage_cents, included_cents),
        )


@dataclass(frozen=True, slots=True)
class UserUsage:
    """One user's usage of a month.

    Attributes:
        month: The month.
        source: `live` as the platform's tables have it now, `frozen` as it was billed.
        as_of: When it was so; aware.
        calls: How many.
        usage_cents: Their exact cost, in (possibly fractional) minor units.
        days: Days (UTC) with calls; None where the frozen rows are not at hand.
        currency: Of the amounts.
        included_cents: The plan's monthly allowance.
        charge: What the usage comes to.
        projected: What the whole month may come to; None for any but the present month, and on its first day.
    """

    month: Month
    source: Literal["live", "frozen"]
    as_of: datetime
    calls: int
    usage_cents: Decimal
    days: Sequence[DayUsage] | None
    currency: str
    included_cents: int
    charge: Charge
    projected: Charge | None

    def money(self, amount_cents: int) -> str:
        """Write an amount in the user's currency."""
        return format_money(amount_cents, self.currency, grouping=True)


def read_usage(context: WebContext, user_id: str, month: Month) -> UserUsage | None:
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
    users = open_one_user(context.settings.usage_database)
    account, found = users.account(user_id), users.month(user_id, month)
    if account is None and not found.calls and not _was_billed(context, user_id):
        return None
    included_cents = account.included_cents if account else 0
    usage_cents = found.cost_cents
    whole_month = projected_cents(usage_cents, month, now)
    return UserUsage(
        month=month,
        source="live",
        as_of=now,
        calls=found.calls,
        usage_cents=usage_cents,
        days=found.days,
        currency=_currency(account),
        included_cents=included_cents,
        charge=Charge.of(usage_cents, included_cents),
        projected=None if whole_month is None else Charge.of(whole_month, included_cents),
    )


def is_known(context: WebContext, user_id: str) -> bool:
    """Return whether the platform has the user: a bill, an account, or calls in the present month."""
    if _was_billed(context, user_id):
        return True
    users = open_one_user(context.settings.usage_database)
    month = Month.containing(context.clock())
    return users.account(user_id) is not None or users.month(user_id, month).calls > 0


def projected_cents(usage_cents: Decimal, month: Month, now: datetime) -> Decimal | None:
    """Estimate the exact cost of a whole month from its cost so far, linear by the time that has passed.

    Returns:
        None before a day of the month has passed, and when it is over.
    """
    passed, whole = now - month.start, month.end - month.start
    if not SOONEST <= passed < whole:
        return None
    with localcontext(prec=_DIGITS):
        return usage_cents * (whole // _MICROSECOND) / (passed // _MICROSECOND)


def _frozen(context: WebContext, user_id: str, month: Month, record: MonthRecord) -> UserUsage | None:
    bills = context.ledger.bills_of_user(month, user_id)
    if not bills and not is_known(context, user_id):
        return None
    as_of, days = record.drafted_at, None
    try:
        version = context.usage_store().version(month, record.usage_version)
        as_of, days = version.manifest.frozen_at, rows_of_user(version, user_id)
    except UsageError:
        # Frozen rows may lie on another machine, or in a backup; the ledger has what was billed.
        days = None
    bill = bills[-1] if bills else None
    usage_cents = exact_sum(bill.usage_cents, bill.unbilled_usage_cents) if bill else Decimal(0)
    included_cents = bill.included_cents if bill else 0
    return UserUsage(
        month=month,
        source="frozen",
        as_of=as_of,
        calls=bill.calls + bill.unbilled_calls if bill else 0,
        usage_cents=usage_cents,
        days=days,
        currency=bill.currency if bill else _currency(None),
        included_cents=included_cents,
        charge=Charge.of(usage_cents, included_cents),
        projected=None,
    )


def _currency(account: Account | None) -> str:
    return account.currency if account else Account(None).currency


def _was_billed(context: WebContext, user_id: str) -> bool:
    with context.ledger.reading() as connection:
        return has_bill(connection, user_id)
