"""Months that were billed too long ago to be compared: their rows are counted, and a difference is named."""

import pytest

from spell_billing.core.month import Month
from spell_billing.invoicing.guards import source_warnings
from spell_billing.invoicing.usage_versions import earlier_versions, past_of
from spell_billing.settings.databases import parse_database_url
from spell_billing.usage.source import open_usage_source
from spell_billing_tests.proof.small_platform import SmallPlatform

ONE = "user-0001"
RUNS = [Month(2025, number) for number in range(4, 10)]


def warnings(platform: SmallPlatform, month: Month) -> str:
    """Freeze a month as `raw_usage` does, and return what is said of the source."""
    with platform.ledger() as ledger:
        earlier, _ = earlier_versions(ledger, platform.store, month)
        past = past_of(ledger, platform.store, month)
    source = open_usage_source(parse_database_url(platform.url, setting="DATABASE_URL"))
    frozen = platform.store.freeze(source, month, late_for=earlier, past=past)
    return " ".join(source_warnings(frozen, None))


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("billed", "named_by"),
    [
        pytest.param("2024-03", RUNS, id="13 months ago and more"),
        pytest.param("2022-09", RUNS, id="31 months ago and more, the only older year"),
        pytest.param("2021-03", [RUNS[2], RUNS[5]], id="49 months ago and more, one of three older years"),
    ],
)
def test_a_month_that_is_too_old_to_be_compared_and_gained_a_row_is_named_in_its_turn(
    platform: SmallPlatform, billed: str, named_by: list[Month]
) -> None:
    platform.accounts(ONE)
    platform.calls(Month.parse(billed), (ONE, 300))
    platform.bill(Month.parse(billed))
    platform.calls(Month.parse(billed), (ONE, 5))

    told = {month: warnings(platform, month) for month in RUNS}

    said = f"2 rows of {billed} in usage_counters, but 1 was billed"
    assert [month for month, text in told.items() if said in text] == named_by


def test_an_old_month_of_a_long_history_is_counted_at_least_once_a_year(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ONE)
    for year in range(2014, 2025):
        light_platform.calls(Month(year, 5), (ONE, 300))
        light_platform.bill(Month(year, 5))
    with light_platform.ledger() as ledger:
        counted = [
            {month for month, _ in past_of(ledger, light_platform.store, run).billed}
            for run in Month(2025, 6).through(Month(2026, 5))
        ]

    assert set.union(*counted) >= {Month(year, 5) for year in range(2014, 2025)}
    # Of two years in each run.
    assert max(len(months) for months in counted) == 2


def test_rows_that_a_bill_of_an_old_month_charged_when_it_was_drafted_again_count_as_billed(
    light_platform: SmallPlatform,
) -> None:
    month = Month(2024, 3)
    light_platform.calls(month, (ONE, 300))
    light_platform.bill(month)
    light_platform.accounts(ONE)
    light_platform.calls(month, (ONE, 5))
    light_platform.bill(month)
    assert [each.total_cents for each in light_platform.standing()] == [305]

    assert "2024-03" not in warnings(light_platform, RUNS[0])


def test_a_month_of_long_ago_whose_rows_were_all_deleted_is_not_named(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE)
    for month in (Month(2022, 9), Month(2024, 3)):
        light_platform.calls(month, (ONE, 300))
        light_platform.bill(month)
    light_platform.sql("DELETE FROM usage_counters")

    text = warnings(light_platform, RUNS[0])

    assert "0 rows of 2024-03 in usage_counters, but 1 was billed" in text
    assert "2022-09" not in text
