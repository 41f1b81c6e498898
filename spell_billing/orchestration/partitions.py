"""The months as Dagster's partitions. See https://docs.dagster.io/guides/build/partitions-and-backfills."""

from datetime import UTC, datetime

import dagster as dg

from spell_billing.core.errors import MonthError
from spell_billing.core.month import Month, require_billable
from spell_billing.settings.billing import Settings

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
