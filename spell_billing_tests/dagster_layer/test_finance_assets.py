"""The assets for finance, run as their job runs them: files, figures, and a journal that balances."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from spell_billing.orchestration.assets import finance
from spell_billing.orchestration.build import build_defs
from spell_billing_tests.dagster_layer.conftest import Platform

MARCH = "2025-03-01"


@pytest.fixture
def billed(platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Platform:
    """Give a platform whose March is billed, and the folder of the files in place."""
    monkeypatch.setenv("SPELL_BILLING_EXPORTS", str(tmp_path / "finance"))
    platform.accounts("ada", "bob")
    platform.calls("2025-03", ("ada", 700), ("bob", 100))
    platform.bill("2025-03")
    return platform


def export(platform: Platform) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [finance.invoices_export, finance.payments_export, finance.journal, finance.journal_balances],
        partition_key=MARCH,
        resources={"ledger": platform.resources()["ledger"]},
        raise_on_error=False,
    )


def figures(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (done,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in done.metadata.items()}


def test_a_month_is_written_with_its_sums_and_the_journal_balances(billed: Platform, tmp_path: Path) -> None:
    result = export(billed)

    assert result.success
    bills = figures(result, "invoices_export")
    assert (bills["dagster/row_count"], bills["invoice_cents"]) == (2, 800)
    assert bills["dagster/uri"] == (tmp_path / "finance" / "2025-03" / "invoices.parquet").as_uri()
    journal = pq.read_table(tmp_path / "finance" / "2025-03" / "journal.parquet").to_pylist()
    assert {(each["account"], each["debit_cents"] - each["credit_cents"]) for each in journal} >= {
        ("usage_revenue", -800)
    }
    assert figures(result, "journal")["debit_cents"] == figures(result, "journal")["credit_cents"]
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("journal_balances", True)


def test_a_ledger_that_was_altered_fails_the_check(billed: Platform) -> None:
    billed.source.execute("UPDATE ledger_invoices SET total_cents = total_cents + 1 WHERE user_id = 'ada'")

    (check,) = export(billed).get_asset_check_evaluations()

    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "debits exceed credits by 1 minor units" in str(check.description)


def test_the_schedule_asks_for_the_last_two_drafted_months_once_a_day(billed: Platform) -> None:
    repository = build_defs().get_repository_def()
    schedule = repository.get_schedule_def("finance_exports_schedule")
    context = dg.build_schedule_context(
        repository_def=repository,
        scheduled_execution_time=datetime(2025, 5, 3, 5, tzinfo=UTC),
        resources={"ledger": billed.resources()["ledger"]},
    )

    (request,) = schedule.evaluate_tick(context).run_requests or ()

    assert (request.partition_key, request.run_key) == (MARCH, f"finance {MARCH} 2025-05-03")
