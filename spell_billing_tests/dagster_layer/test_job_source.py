"""What the source of a month may hold although it is billed: named as warnings, and stopping nobody."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest


def warning(result: Any) -> tuple[bool, dg.AssetCheckSeverity, str]:
    (check,) = (each for each in result.get_asset_check_evaluations() if each.check_name == "source_in_order")
    return check.passed, check.severity, str(check.description)


def test_rows_of_a_billed_month_that_lost_their_user_stop_nobody_and_are_named(
    make_platform: Any, database_url: str, metadata_of: Any
) -> None:
    platform = make_platform(database_url, not_null=False)
    platform.accounts("user-0001", "user-0002")
    platform.calls("2025-03", ("user-0001", 300), ("user-0002", 200))
    platform.bill("2025-03")
    platform.source.execute("UPDATE usage_counters SET user_id = NULL WHERE user_id = 'user-0002'")
    platform.calls("2025-04", ("user-0001", 400))

    result = platform.bill("2025-04")

    passed, severity, text = warning(result)
    assert not passed
    assert severity is dg.AssetCheckSeverity.WARN
    assert "1 row of billed months can no longer be billed, and stops nobody" in text
    assert "id 2: user_id is missing in 2025-03" in text
    assert metadata_of(result, "raw_usage")["earlier_bad_rows"] == 1
    assert sorted(each.total_cents for each in platform.double.invoices()) == [200, 300, 400]


def test_rows_of_the_future_and_from_before_the_first_month_are_told_once(
    platform: Any, metadata_of: Any
) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-02", ("user-0001", 10))
    platform.calls("2025-03", ("user-0001", 300))
    ahead = datetime.now(UTC) + timedelta(hours=2)
    platform.source.calls([("user-0001", 5, ahead)])

    march = platform.bill("2025-03")

    passed, _, text = warning(march)
    assert not passed
    assert "1 row of usage_counters has a time after the freeze" in text
    assert "1 row of usage_counters is from before the first billed month" in text
    found = metadata_of(march, "raw_usage")
    assert (found["future_rows"], found["rows_before_first_month"]) == (1, 1)
    platform.source.execute("DELETE FROM usage_counters WHERE cost_cents = 5")
    platform.calls("2025-04", ("user-0001", 300))
    assert warning(platform.bill("2025-04"))[0]


def test_the_version_that_drafts_name_outlives_any_number_of_freezes(platform: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 300))
    drafting = ["raw_usage", "user_usage", "invoice_drafts"]
    platform.run("2025-03", assets=drafting)

    for _ in range(4):
        platform.run("2025-03", assets=["raw_usage"])

    assert platform.run("2025-03", assets=["stripe_invoices"]).success
    assert [invoice.total_cents for invoice in platform.invoices()] == [300]


def test_a_month_within_its_grace_is_not_billed(
    platform: Any, clock: Any, reason: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_GRACE_MINUTES", "90")
    platform.calls("2025-03", ("user-0001", 5))
    clock("2025-04-01T01:29:59+00:00")

    result = platform.run("2025-03")

    assert not result.success
    assert "2025-03 is not billed before 2025-04-01 01:30 UTC" in reason(result)
    clock("2025-04-01T01:30:00+00:00")
    assert platform.run("2025-03").success
