"""By when Dagster expects a month's invoices: the deadline after the schedule's tick."""

from datetime import timedelta

import dagster as dg
import pytest

from spell_billing.orchestration.partitions import invoiced_by_deadline
from spell_billing.settings.billing import Settings


@pytest.mark.parametrize(
    ("settings", "deadline", "hours"),
    [
        ({}, "0 6 1 * *", 6),
        ({"BILLING_CRON": "30 20 2 * *", "BILLING_DEADLINE_HOURS": "12"}, "30 8 3 * *", 12),
        ({"BILLING_GRACE_MINUTES": "90"}, "30 7 1 * *", 7.5),
    ],
)
def test_invoices_are_expected_between_the_tick_and_the_deadline(
    settings: dict[str, str], deadline: str, hours: float
) -> None:
    assert invoiced_by_deadline(Settings(settings)) == dg.FreshnessPolicy.cron(
        deadline_cron=deadline, lower_bound_delta=timedelta(hours=hours)
    )


@pytest.mark.parametrize("cron", ["0 0 31 * *", "0 0 1 1,7 *", "0 0 * * 1", "@monthly", "*/5 0 1 * *"])
def test_a_schedule_that_cannot_be_shifted_has_no_deadline_in_dagster(cron: str) -> None:
    assert invoiced_by_deadline(Settings({"BILLING_CRON": cron})) is None
