"""When months are billed. See https://docs.dagster.io/guides/automate/schedules."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from spell_billing.core.errors import SettingsError
from spell_billing.core.month import Month
from spell_billing.ledger.month_state import closed_months
from spell_billing.orchestration.billing_runs import months_under_way
from spell_billing.orchestration.jobs import finance_exports, monthly_billing
from spell_billing.orchestration.readiness_job import payment_readiness, week_of
from spell_billing.orchestration.resources import LedgerResource, StripeResource
from spell_billing.orchestration.unstable import OWNERS
from spell_billing.settings.billing import Settings
from spell_billing.settings.databases import DatabaseUnreachableError

MONTHS_PER_TICK = 12
"""How many months are requested at once; the others are requested at the next tick."""


_MOVING_MONTHS = 2
"""Most payments, refunds and disputes come within them; older months are exported by hand."""


def checked_cron(text: str) -> str:
    """Accept a cron schedule of five fields, or a short name as `@monthly`.

    Raises:
        SettingsError: naming `BILLING_CRON`.
    """
    try:
        _windows(text, datetime(2024, 1, 1, tzinfo=UTC))
    except dg.DagsterInvalidDefinitionError:
        raise SettingsError(
            f"BILLING_CRON={text!r} is not a cron schedule.",
            remedy="Write five fields (minute, hour, day of the month, month, day of the week; UTC), "
            "as 0 0 1 * *.",
        ) from None
    return text


def ticks(cron: str, grace: timedelta) -> str | list[str]:
    """Return the cron schedules of all ticks: the one set, and the end of a month's grace, if there is any.

    A tick of the first that comes within the grace finds nothing to bill; the second makes up for it.
    """
    if not grace:
        return cron
    after = datetime(2024, 1, 1, tzinfo=UTC) + grace
    return [cron, f"{after.minute} {after.hour} {after.day} * *"]


def tick_that_bills(month: Month, cron: str) -> datetime:
    """Return the first tick of a checked cron schedule at which the month is closed."""
    window = _windows(cron, month.end).get_next_partition_window(month.end, respect_bounds=False)
    if window is None:
        raise SettingsError(f"BILLING_CRON={cron!r} has no tick after {month}.", remedy="Use 0 0 1 * *.")
    return window.start.astimezone(UTC)


def _windows(cron: str, start: datetime) -> dg.TimeWindowPartitionsDefinition:
    return dg.TimeWindowPartitionsDefinition(
        start=start, fmt="%Y-%m-%dT%H:%M", cron_schedule=cron, timezone="UTC"
    )


@dg.schedule(
    job=monthly_billing,
    cron_schedule=ticks(
        checked_cron(Settings.from_environment().billing_cron), Settings.from_environment().billing_grace
    ),
    execution_timezone="UTC",
    owners=OWNERS,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description=(
        "On the 1st at 00:00 UTC (BILLING_CRON): bill every closed month that the ledger does not show as "
        "billed, oldest first."
    ),
)
def monthly_billing_schedule(
    context: dg.ScheduleEvaluationContext, ledger: LedgerResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Request a run for each month, closed at the tick's time, in which a run has something to do.

    The ledger says so, not Dagster: a daemon that was down for months requests them all, a month whose run
    failed comes again with the next tick, and the ticks that a daemon catches up on do not double.
    """
    tick = context.scheduled_execution_time.astimezone(UTC)
    settings = Settings.from_environment()
    first = settings.first_month
    under_way = months_under_way(context.instance)
    try:
        with ledger.open() as open_ledger:
            closed = _due(closed_months(open_ledger.months(), first=first, now=tick), settings, tick)
            due = [
                month for month in closed if month not in under_way and open_ledger.standing(month).needs_run
            ]
    except DatabaseUnreachableError as error:
        # A tick that failed would not come again before the next month. Operators are alerted on the
        # run's own failure, and it is retried; where the month is billed, it sends nothing.
        context.log.warning(str(error))
        closed = _due(closed_months([], first=first, now=tick), settings, tick)
        due = [month for month in closed if month not in under_way]
    if not closed:
        return dg.SkipReason(f"No month from the first billed one, {first}, on is closed yet.")
    if not due:
        return dg.SkipReason("Every closed month is billed, being billed, or waits for an operator.")
    return [
        dg.RunRequest(run_key=f"{month} {tick.isoformat()}", partition_key=month.partition_key)
        for month in due[:MONTHS_PER_TICK]
    ]


@dg.schedule(
    job=payment_readiness,
    cron_schedule="0 6 * * 1",
    execution_timezone="UTC",
    owners=OWNERS,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Mondays at 06:00 UTC: check who has usage in the present month and no way to pay.",
)
def payment_readiness_schedule(
    context: dg.ScheduleEvaluationContext, stripe: StripeResource
) -> dg.RunRequest | dg.SkipReason:
    """Request the check, once in a week."""
    if not stripe.has_key:
        return dg.SkipReason("STRIPE_API_KEY is not set: Stripe cannot be asked who can pay.")
    return dg.RunRequest(run_key=week_of(context.scheduled_execution_time))


@dg.schedule(
    job=finance_exports,
    cron_schedule="0 5 * * *",
    execution_timezone="UTC",
    owners=OWNERS,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Daily at 05:00 UTC, once switched on: the files for finance of the last two drafted months.",
)
def finance_exports_schedule(
    context: dg.ScheduleEvaluationContext, ledger: LedgerResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Request the files of the months whose payments still move."""
    with ledger.open_read_only() as opened:
        drafted = sorted(each.month for each in opened.months())[-_MOVING_MONTHS:]
    if not drafted:
        return dg.SkipReason("No month is drafted yet.")
    day = context.scheduled_execution_time.date()
    keys = [Month.parse(month).partition_key for month in drafted]
    return [dg.RunRequest(run_key=f"finance {key} {day}", partition_key=key) for key in keys]


def _due(closed: list[Month], settings: Settings, tick: datetime) -> list[Month]:
    """Return the months whose grace is over, and whose own tick has come: a grace ends before a later one."""
    return [
        month
        for month in closed
        if month.is_closed(tick - settings.billing_grace)
        and tick_that_bills(month, settings.billing_cron) <= tick
    ]
