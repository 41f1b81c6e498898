"""The months as Dagster's partitions, and by when their invoices are expected.

See https://docs.dagster.io/guides/build/partitions-and-backfills and
https://docs.dagster.io/guides/observe/asset-freshness-policies.
"""

from datetime import UTC, datetime

import dagster as dg

from spell_billing.core.errors import MonthError
from spell_billing.core.month import Month, require_billable
from spell_billing.settings.billing import Settings

_LAST_DAY_OF_EVERY_MONTH = 28

MONTHLY = dg.MonthlyPartitionsDefinition(
    start_date=Settings.from_environment().first_month.start, timezone="UTC"
)
"""From the first billed month to the last closed one."""


def billable_month(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Month:
    """Return the month of the run's partition, for an asset or a check of one.

    Dagster launches a partition that does not exist, so every asset asks here first. The key comes from the
    run: partitions of checks themselves are a preview feature of Dagster 1.13.

    Raises:
        MonthError: when there is no month, or it is not closed, or it precedes the first billed month.
    """
    key = context.run.tags.get("dagster/partition")
    if key is None:
        raise MonthError("The run has no month.", remedy="Launch one partition, as 2026-10-01.")
    month = Month.from_partition_key(key)
    settings = Settings.from_environment()
    require_billable(month, first=settings.first_month, now=datetime.now(UTC), grace=settings.billing_grace)
    return month


def invoiced_by_deadline(settings: Settings) -> dg.FreshnessPolicy | None:
    """Expect invoices between the schedule's tick and BILLING_DEADLINE_HOURS after it, grace included.

    Returns:
        The policy; None for a schedule other than `minute hour day * *` with a day that every month has.
    """
    fields = settings.billing_cron.split()
    plain = len(fields) == 5 and all(field.isdigit() for field in fields[:3])  # noqa: PLR2004 - cron's fields
    if not plain or fields[3:] != ["*", "*"] or int(fields[2]) > _LAST_DAY_OF_EVERY_MONTH:
        return None
    minute, hour, day = (int(field) for field in fields[:3])
    window = settings.billing_grace + settings.billing_deadline
    deadline = datetime(2024, 1, day, hour, minute, tzinfo=UTC) + window
    return dg.FreshnessPolicy.cron(
        deadline_cron=f"{deadline.minute} {deadline.hour} {deadline.day} * *", lower_bound_delta=window
    )
