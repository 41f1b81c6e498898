"""Who acts: the ledger's audit trail names whoever launched the run."""

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from spell_billing.orchestration.assets.common import actor_of


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"spell_billing/actor": "somebody@host", "dagster/schedule_name": "monthly"}, "somebody@host"),
        ({"dagster/schedule_name": "monthly_billing_schedule"}, "schedule monthly_billing_schedule"),
        ({"dagster/sensor_name": "late_usage"}, "sensor late_usage"),
        ({"dagster/backfill": "bdyxzmau"}, "backfill bdyxzmau"),
        ({"user": "somebody@example.com"}, "user somebody@example.com"),
        ({}, "dagster"),
    ],
)
def test_the_actor_is_who_launched_the_run(tags: dict[str, str], name: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = create_run_for_test(instance, tags=tags)

    assert actor_of(run).name == name
    assert actor_of(run).run_id == run.run_id
