"""The two Dagster instances: production on PostgreSQL and the local one hold the same limits, and load."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster import DagsterRunStatus

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = ROOT / "dagster.yaml"
LOCAL = ROOT / "spell_billing" / "orchestration" / "local_dagster.yaml"


@pytest.fixture
def production(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Open the production instance on a PostgreSQL of the test's own."""
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(PRODUCTION, home)
    # As Fly and Heroku set it.
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres_url.replace("postgresql://", "postgres://"))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def test_both_instances_hold_the_same_limits() -> None:
    production, local = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (PRODUCTION, LOCAL))

    storage = production.pop("storage")["custom"]
    assert storage["config"] == {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}
    assert "storage" not in local
    assert production == local


def test_the_local_instance_loads_with_one_run_a_month_and_no_telemetry(tmp_path: Path) -> None:
    shutil.copy(LOCAL, tmp_path / "dagster.yaml")

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        limits = instance.get_concurrency_config().run_queue_config
        assert limits is not None
        assert limits.tag_concurrency_limits == [
            {"key": "dagster/partition", "limit": 1, "value": {"applyLimitPerUniqueValue": True}}
        ]
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds == 12 * 3600
        assert (instance.run_retries_enabled, instance.run_retries_max_retries) == (True, 2)
        assert not instance.run_retries_retry_on_asset_or_op_failure


def test_the_production_instance_records_the_job_in_postgresql(
    production: dg.DagsterInstance, make_platform: Any, postgres_url: str
) -> None:
    platform = make_platform(postgres_url)
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100))

    result = platform.run("2025-03", instance=production)

    assert result.success
    run = production.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is DagsterRunStatus.SUCCESS
    assert production.get_materialized_partitions(dg.AssetKey("stripe_invoices")) == {"2025-03-01"}
    assert [invoice.total_cents for invoice in platform.invoices()] == [100]


def test_the_production_instance_without_its_setting_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PRODUCTION, tmp_path)
    monkeypatch.delenv("DAGSTER_POSTGRES_URL", raising=False)

    with pytest.raises(dg.DagsterInvalidConfigError, match="DAGSTER_POSTGRES_URL"):
        dg.DagsterInstance.from_config(str(tmp_path))
