"""When months are billed. See https://docs.dagster.io/guides/automate/schedules."""

from datetime import UTC

import dagster as dg

from spell_billing.core.month import Month
from spell_billing.jobs import monthly_billing
from spell_billing.settings import Settings


@dg.schedule(
    job=monthly_billing,
    cron_schedule="0 0 1 * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="On the 1st at 00:00 UTC: bill the month that has just closed.",
)
def monthly_billing_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request one run for the month before the tick's."""
    month = Month.containing(context.scheduled_execution_time.astimezone(UTC)).previous()
    first = Settings.from_environment().first_month
    if month < first:
        return dg.SkipReason(f"{month} precedes the first billed month, {first}")
    return dg.RunRequest(run_key=str(month), partition_key=month.partition_key)
