"""`GET /v1/users/{user_id}/usage`: the present month so far, and what earlier months were billed for."""

import shutil
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.month import Month
from spell_billing.core.open_month import projected_cents
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform
from spell_billing_tests.web.house import NOW, House
from spell_billing_tests.web_pages.world import OpenDoors, api, moment

ONE = "user-0001"


def test_the_present_month_is_told_by_day_with_an_estimate(doors: House, platform: SmallPlatform) -> None:
    platform.source.calls([(ONE, 100, moment(1)), (ONE, 20, moment(1, 23)), (ONE, 3, moment(3, 0))])

    usage = doors.admit("GET", api(ONE, "usage")).json

    assert (usage["user_id"], usage["month"], usage["source"]) == (ONE, "2025-04", "live")
    assert usage["as_of"] == NOW.isoformat()
    assert (usage["calls"], usage["exact_usage_cents"], usage["currency"]) == (3, "123", "usd")
    assert (usage["usage_cents"], usage["covered_cents"], usage["due_cents"], usage["due"]) == (
        123,
        0,
        123,
        "$1.23",
    )
    assert usage["days"] == [
        {"day": "2025-04-01", "calls": 2, "exact_usage_cents": "120"},
        {"day": "2025-04-03", "calls": 1, "exact_usage_cents": "3"},
    ]
    # 57.5 of 720 hours have passed: 123 * 720 / 57.5 = 1540.17.
    assert usage["projection"]["due_cents"] == 1540
    assert "estimate" in usage["projection"]["method"].lower()


def test_the_plan_s_allowance_covers_cost_and_estimate(
    platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 1000}])
    platform.accounts(ONE, plan_id="pro", currency="EUR")
    platform.source.calls([(ONE, 123, moment(1))])

    with open_doors(platform) as house:
        usage = house.admit("GET", api(ONE, "usage")).json

    assert (usage["included_cents"], usage["currency"]) == (1000, "eur")
    assert (usage["usage_cents"], usage["covered_cents"], usage["due_cents"]) == (123, 123, 0)
    projection = usage["projection"]
    assert (projection["usage_cents"], projection["covered_cents"], projection["due"]) == (
        1540,
        1000,
        "€5.40",
    )


def test_a_billed_month_is_told_as_it_was_billed(doors: House, platform: SmallPlatform) -> None:
    platform.calls(MARCH, (ONE, 999))

    usage = doors.admit("GET", api(ONE, "usage?month=2025-03")).json

    assert (usage["source"], usage["calls"], usage["exact_usage_cents"]) == ("frozen", 2, "1234")
    assert usage["days"] == [{"day": "2025-03-15", "calls": 2, "exact_usage_cents": "1234"}]
    assert usage["projection"] is None


def test_a_billed_month_is_told_from_the_ledger_where_the_frozen_rows_are_gone(
    light_doors: House, light_platform: SmallPlatform
) -> None:
    shutil.rmtree(light_platform.store_path)

    usage = light_doors.admit("GET", api(ONE, "usage?month=2025-03"))

    assert usage.status == 200
    assert (usage.json["calls"], usage.json["due"], usage.json["days"]) == (2, "$12.34", None)


def test_a_closed_month_that_is_not_billed_is_told_as_it_is_now(
    light_doors: House, light_platform: SmallPlatform
) -> None:
    light_platform.calls(MARCH.previous(), (ONE, 5))

    usage = light_doors.admit("GET", api(ONE, "usage?month=2025-02")).json

    assert (usage["source"], usage["calls"], usage["projection"]) == ("live", 1, None)


@pytest.mark.both_databases
def test_a_known_user_without_calls_has_a_month_of_nothing(doors: House) -> None:
    for month in ("2025-04", "2025-03", "2024-01"):
        usage = doors.admit("GET", api("user-0003", f"usage?month={month}"))
        assert (usage.status, usage.json["due_cents"]) == (200, 0), month


def test_nobody_is_not_found(doors: House) -> None:
    for month in ("2025-04", "2025-03", "2024-01"):
        answer = doors.admit("GET", api("nobody", f"usage?month={month}"))
        assert (answer.status, answer.json["error"]["code"]) == (404, "unknown_user"), month
    assert doors.admit("GET", "/v1/users//usage").status == 404


def test_a_future_month_is_refused(light_doors: House) -> None:
    for month in ("2025-05", "2026-01", "9998-12"):
        answer = light_doors.admit("GET", api(ONE, f"usage?month={month}"))
        assert (answer.status, answer.json["error"]["code"]) == (422, "month_in_future"), month


def test_what_is_no_month_is_refused(light_doors: House) -> None:
    for month in ("", "2025", "2025-13", "2025-3", "march", "0000-01", "2025-03-01", "%00"):
        answer = light_doors.admit("GET", api(ONE, f"usage?month={month}"))
        assert (answer.status, answer.json["error"]["code"]) == (422, "wrong_month"), month


def test_a_platform_that_does_not_answer_is_said_without_its_name(
    light_doors: House, light_platform: SmallPlatform
) -> None:
    light_platform.sql("DROP TABLE usage_counters")

    answer = light_doors.admit("GET", api(ONE, "usage"))

    assert answer.status == 503
    assert "test.db" not in answer.text
    assert light_doors.admit("GET", api(ONE, "usage?month=2025-03")).status == 200


def test_nothing_is_estimated_on_the_first_day_and_after_the_last() -> None:
    day = timedelta(days=1)
    assert projected_cents(Decimal(10), APRIL, APRIL.start) is None
    assert projected_cents(Decimal(10), APRIL, APRIL.start + day - timedelta(microseconds=1)) is None
    assert projected_cents(Decimal(10), APRIL, APRIL.start + day) == 300
    assert projected_cents(Decimal(10), APRIL, APRIL.end) is None
    assert projected_cents(Decimal(10), APRIL, APRIL.start - day) is None


@given(
    cents=st.decimals(min_value=-(10**20), max_value=10**20, places=6),
    passed=st.integers(min_value=86_400, max_value=30 * 86_400 - 1),
)
def test_an_estimate_never_lies_below_what_was_used(cents: Decimal, passed: int) -> None:
    found = projected_cents(cents, Month(2025, 4), APRIL.start + timedelta(seconds=passed))

    assert found is not None
    assert abs(found) >= abs(cents)
