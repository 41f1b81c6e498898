"""What Dagster loads: four assets, one job, one schedule, and resources that can be exchanged."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from spell_billing import definitions
from spell_billing.orchestration.assets.invoice_drafts import invoice_drafts
from spell_billing.orchestration.assets.raw_usage import raw_usage
from spell_billing.orchestration.assets.stripe_invoices import stripe_invoices
from spell_billing.orchestration.assets.user_usage import user_usage
from spell_billing.orchestration.build import build_defs
from spell_billing.orchestration.resources import StripeResource

ASSETS = (raw_usage, user_usage, invoice_drafts, stripe_invoices)
PLATFORM = {
    *("usage_counters", "billing_accounts", "billing_plans"),
    *("plan_subscriptions", "billing_discounts", "rate_cards"),
}
FINANCE = ("invoices_export", "payments_export", "journal")


def schedule(defs: dg.Definitions) -> dg.ScheduleDefinition:
    return defs.resolve_schedule_def("monthly_billing_schedule")


def test_the_definitions_load_in_a_fresh_interpreter_without_a_warning() -> None:
    code = (
        "from spell_billing.definitions import defs\n"
        "import dagster as dg\n"
        "dg.Definitions.validate_loadable(defs)\n"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}

    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (loaded.returncode, loaded.stdout, loaded.stderr) == (0, "", "")


def test_the_lineage_leads_from_the_platform_s_tables_over_four_assets_to_stripe() -> None:
    graph = definitions.defs.resolve_asset_graph()

    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents == {
        **{key: set() for key in PLATFORM},
        "raw_usage": PLATFORM,
        "user_usage": {"raw_usage"},
        "invoice_drafts": {"user_usage", "billing_accounts", "billing_plans"},
        "stripe_invoices": {"invoice_drafts"},
        "stripe/invoices": {"stripe_invoices"},
        "price_simulation": {"user_usage"},
        **{key: {"stripe/invoices"} for key in FINANCE},
    }
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == {
        *(asset.key.to_user_string() for asset in ASSETS),
        "price_simulation",
        *FINANCE,
    }


def test_every_asset_leads_to_the_lines_that_define_it() -> None:
    for key, spec in ((spec.key, spec) for spec in definitions.defs.resolve_all_asset_specs()):
        if key.path[0] not in PLATFORM | {"stripe"}:
            file = "finance" if key.path[0] in FINANCE else key.path[0]
            (reference,) = spec.metadata["dagster/code_references"].code_references
            assert reference.file_path.endswith(f"assets/{file}.py")


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.key.to_user_string())
def test_every_asset_says_whose_it_is_and_what_it_holds(asset: dg.AssetsDefinition) -> None:
    (spec,) = asset.specs

    assert spec.owners == ["team:billing"]
    assert spec.kinds
    assert spec.tags["spell_billing/step"]
    assert spec.group_name == "monthly_billing"
    assert spec.code_version
    assert spec.description
    schema = spec.metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    assert all(column.description for column in schema.columns)


def test_only_the_last_asset_has_effects_at_stripe() -> None:
    marked = [asset.key.to_user_string() for asset in ASSETS if "stripe" in next(iter(asset.specs)).kinds]

    assert marked == ["stripe_invoices"]


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: asset.key.to_user_string())
def test_every_asset_has_a_partition_a_month_in_utc_from_the_first_month(asset: dg.AssetsDefinition) -> None:
    partitions = asset.partitions_def

    assert isinstance(partitions, dg.MonthlyPartitionsDefinition)
    assert partitions.timezone == "UTC"
    keys = partitions.get_partition_keys(current_time=datetime(2024, 4, 1, tzinfo=UTC))
    assert keys == ["2024-01-01", "2024-02-01", "2024-03-01"]


def test_the_invoice_asset_leaves_backfills_to_one_run_a_month() -> None:
    assert stripe_invoices.backfill_policy is None


def test_the_one_job_runs_all_of_it_in_one_process() -> None:
    repository = definitions.defs.get_repository_def()
    job = definitions.defs.resolve_job_def("monthly_billing")

    names = sorted(name for name in repository.job_names if not name.startswith("__"))
    assert names == ["finance_exports", "monthly_billing", "payment_readiness"]
    assert job.executor_def.name == "in_process"
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == {
        asset.key.to_user_string() for asset in ASSETS
    }
    assert {check.name for check in job.asset_layer.asset_graph.asset_check_keys} >= {
        "no_bad_rows",
        "frozen_equals_source",
        "user_usage_equals_raw_usage",
        "drafts_equal_user_usage",
    }


def test_a_run_that_hangs_ends_and_a_failed_step_is_not_run_again_by_itself() -> None:
    tags = definitions.defs.resolve_job_def("monthly_billing").tags

    assert int(tags["dagster/max_runtime"]) == 12 * 3600
    assert tags["dagster/retry_on_asset_or_op_failure"] == "false"


def test_the_schedule_ticks_on_the_first_of_the_month_at_midnight_utc() -> None:
    found = schedule(definitions.defs)

    assert (found.cron_schedule, found.execution_timezone) == ("0 0 1 * *", "UTC")
    assert found.default_status is dg.DefaultScheduleStatus.RUNNING


def test_a_schedule_of_ones_own_comes_from_the_environment_and_a_wrong_one_is_named() -> None:
    code = (
        "from spell_billing.definitions import defs\n"
        "print(defs.resolve_schedule_def('monthly_billing_schedule').cron_schedule)"
    )

    def load(cron: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "BILLING_CRON": cron}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert load("30 6 2 * *").stdout == "30 6 2 * *\n"
    wrong = load("every month")
    assert wrong.returncode == 1
    assert "BILLING_CRON='every month' is not a cron schedule." in wrong.stderr


def test_every_sensor_runs_unless_it_is_turned_off() -> None:
    sensors = definitions.defs.get_repository_def().sensor_defs

    assert {sensor.name for sensor in sensors} >= {
        "billing_run_failed",
        "billing_checks_failed",
        "users_not_invoiced",
        "month_unbilled",
        "retry_leftovers",
    }
    assert {sensor.default_status for sensor in sensors} == {dg.DefaultSensorStatus.RUNNING}
    assert all(sensor.description for sensor in sensors)


def test_build_defs_gives_fresh_definitions_with_the_resources_exchanged() -> None:
    ours = StripeResource(api_key="sk_test_ours")

    first, second = build_defs(resource_overrides={"stripe": ours}), build_defs()

    assert first is not second
    assert first.resources is not None
    assert second.resources is not None
    assert first.resources["stripe"] is ours
    assert second.resources["stripe"] is not ours
    usual = {"ledger", "usage", "stripe", "alerts", "io_manager"}
    assert set(first.resources) == set(second.resources) == usual


def test_build_defs_refuses_a_resource_that_no_asset_uses() -> None:
    with pytest.raises(ValueError, match="no such resource: strip; there are ledger, usage, stripe, alerts"):
        build_defs(resource_overrides={"strip": StripeResource()})


def test_materialize_takes_the_resources_given(platform: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100))

    result = dg.materialize(
        list(ASSETS), partition_key="2025-03-01", resources=platform.resources(), raise_on_error=False
    )

    assert result.success
    assert [invoice.total_cents for invoice in platform.invoices()] == [100]
