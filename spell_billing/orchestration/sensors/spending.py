"""`spend_alerts`: tells users and the platform, once, which threshold of a spend limit is reached."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from decimal import Decimal

import dagster as dg

from spell_billing.alerts.alert import users
from spell_billing.core.drafting import Account
from spell_billing.core.errors import MonthLockedError
from spell_billing.core.month import Month
from spell_billing.core.open_month import counted_as_told, news, rate_open_month, rating_of
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.thresholds import Reached, note_reached, told_by_user
from spell_billing.orchestration.resources import LedgerResource, UsageResource
from spell_billing.orchestration.unstable import sensor
from spell_billing.settings.databases import DatabaseUnreachableError
from spell_billing.settings.notifications import NotificationSettings
from spell_billing.usage.accounts import accounts_by_user, require_right
from spell_billing.usage.contract import SpendLimits, UsageSource
from spell_billing.usage.plan_book import book_of

EVERY_SECONDS = 600


@sensor(
    "spend_alerts",
    "Rates the present month of users with a spend limit (billing_accounts.spend_limit_cents). Tells them by "
    "mail and the platform by an event, once, which threshold is reached (SPEND_ALERT_PERCENTS).",
    seconds=EVERY_SECONDS,
)
def spend_alerts(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, usage: UsageResource
) -> dg.SkipReason:
    """Note what was reached since the last tick; the sensors `mail` and `events_out` send it."""
    percents = NotificationSettings.from_environment().spend_alert_percents
    source, now = usage.source(), datetime.now(UTC)
    try:
        limits = source.spend_limits()
    except DatabaseUnreachableError as error:
        # Whether there is a limit at all is not known: most platforms have none.
        context.log.warning(str(error))
        return dg.SkipReason(f"{error.message} Spend limits are checked again at the next tick.")
    if not limits.cents and not limits.wrong:
        return dg.SkipReason("No user has a spend limit (billing_accounts.spend_limit_cents).")
    month = Month.containing(now)
    spent = _spent(source, limits, month)
    with ledger.open() as open_ledger:
        try:
            told = _tell(open_ledger, month, spent, percents, now)
        except MonthLockedError:
            return dg.SkipReason("Another process is looking at spend limits.")
    # The others were told all the same.
    require_right(limits)
    return dg.SkipReason(f"{users(told)} reached a threshold." if told else "No user reached a threshold.")


def _spent(source: UsageSource, limits: SpendLimits, month: Month) -> dict[str, Reached]:
    """Rate the month so far of each user with a limit; `percent` is still 0."""
    usage, accounts = source.so_far(month), accounts_by_user(source.accounts(limits.cents))
    book = book_of(month, source.plans(month))
    found = {}
    for user_id, limit_cents in limits.cents.items():
        account = accounts.get(user_id, Account(None))
        usage_cents = usage[user_id].cost_cents if user_id in usage else Decimal(0)
        rating = rating_of(account, book.plan_of(user_id))
        so_far_cents = rate_open_month(usage_cents, rating).due_cents
        found[user_id] = Reached(0, so_far_cents, limit_cents, account.currency)
    return found


def _tell(
    ledger: Ledger, month: Month, spent: Mapping[str, Reached], percents: Collection[int], now: datetime
) -> int:
    reached = {}
    with ledger.exclusive("spend_alerts", wait_seconds=0):
        before = ledger.read(told_by_user, month)
        for user_id, each in spent.items():
            # Of all that were told: a limit that was raised may be lowered again.
            counted = (
                counted_as_told(one.percent, one.so_far_cents, one.limit_cents, each.limit_cents)
                for one in before.get(user_id, ())
            )
            told = max(counted, default=0)
            percent = news(percents, each.so_far_cents, each.limit_cents, told)
            if percent is not None:
                reached[user_id] = Reached(percent, each.so_far_cents, each.limit_cents, each.currency)
        if reached:
            ledger.write(note_reached, month, reached, now)
    return len(reached)
