"""By when a month's invoices are expected. See https://docs.dagster.io/guides/observe/asset-freshness-policies."""

from datetime import UTC, datetime

import dagster as dg

from spell_billing.settings.billing import Settings

_LAST_DAY_OF_EVERY_MONTH = 28


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
