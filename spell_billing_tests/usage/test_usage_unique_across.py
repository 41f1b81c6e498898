"""One row counts once, across the end of a month too: a writer may try again at midnight."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.lakes import parse_usage_url
from spell_billing.usage.contract import SourceRules
from spell_billing.usage.frozen import BilledBefore, FrozenUsage
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER, NOVEMBER = Month(2026, 10), Month(2026, 11)
MIDNIGHT = datetime(2026, 11, 1, tzinfo=UTC)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


@pytest.fixture
def freeze(tmp_path: Path) -> Callable[..., FrozenUsage]:
    """Give a function that freezes a month from the database of a URL."""
    store = UsageStore(tmp_path / "usage")

    def act(url: str, month: Month, column: str | None = None, **options: Any) -> FrozenUsage:
        rules = SourceRules(dedupe_column=column)
        source = open_usage_source(parse_usage_url(url, setting="USAGE_DATABASE_URL"), rules)
        return store.freeze(source, month, **options)

    return act


@pytest.fixture
def tables(make_source_tables: Any, database_url: str) -> Any:
    """Make a table whose ids may repeat, with a request for each call."""
    made = make_source_tables(database_url)
    moment = "text" if made.is_sqlite else "timestamptz"
    made.execute(
        "DROP TABLE usage_counters",
        "CREATE TABLE usage_counters "
        f"(id bigint, user_id text, cost_cents bigint, created_at {moment}, request_id text)",
    )
    return made


def add(tables: Any, number: int | None, moment: datetime, user: str = "ann", cost: int = 50) -> None:
    """Insert a call; its request has the number of its row."""
    values = f"{'NULL' if number is None else number}, '{user}', {cost}, '{moment}', 'r-{number}'"
    tables.execute(f"INSERT INTO usage_counters VALUES ({values})")


def test_a_row_that_the_month_before_was_billed_for_a_moment_earlier_is_named(
    tables: Any, freeze: Callable[..., FrozenUsage]
) -> None:
    for number in (7, 8, 9):
        add(tables, number, MIDNIGHT - SECOND)
    add(tables, None, MIDNIGHT - SECOND)
    october = freeze(tables.url, OCTOBER)
    for number in (7, 8):
        add(tables, number, MIDNIGHT + SECOND)
    add(tables, None, MIDNIGHT + SECOND)

    found = freeze(tables.url, NOVEMBER, late_for=[october]).manifest.billed_before

    if tables.is_lake:
        assert found == BilledBefore(), "sums of users have no rows to compare"
    else:
        assert (found.count, found.ids) == (2, ("7", "8"))


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        (timedelta(0) - SECOND, SECOND, {"user": "bob"}),
        (timedelta(0) - SECOND, SECOND, {"cost": 51}),
        (-DAY / 2, DAY / 2 + SECOND, {}),
        (-20 * DAY, 11 * DAY, {}),
    ],
    ids=["another user", "another cost", "more than a day later", "numbered by month"],
)
def test_ids_that_are_given_anew_each_month_are_no_copies(
    tables: Any,
    freeze: Callable[..., FrozenUsage],
    before: timedelta,
    after: timedelta,
    again: dict[str, Any],
) -> None:
    add(tables, 7, MIDNIGHT + before)
    october = freeze(tables.url, OCTOBER)
    add(tables, 7, MIDNIGHT + after, **again)

    assert freeze(tables.url, NOVEMBER, late_for=[october]).manifest.billed_before == BilledBefore()


def test_a_row_that_moved_over_the_end_of_the_month_is_no_copy(
    tables: Any, freeze: Callable[..., FrozenUsage]
) -> None:
    add(tables, 7, MIDNIGHT - SECOND)
    october = freeze(tables.url, OCTOBER)
    tables.execute(f"UPDATE usage_counters SET created_at = '{MIDNIGHT}'")

    november = freeze(tables.url, NOVEMBER, "request_id", late_for=[october]).manifest

    assert november.billed_before == BilledBefore()
    assert november.late is not None
    assert november.late.months[0].totals.calls == -1


def test_a_request_that_stands_in_two_months_is_refused_whatever_else_its_rows_say(
    tables: Any, freeze: Callable[..., FrozenUsage]
) -> None:
    for number in (1, 2):
        add(tables, number, MIDNIGHT - 20 * DAY)
    october = freeze(tables.url, OCTOBER, "request_id")
    for number in (3, 4):
        add(tables, number, MIDNIGHT + DAY, cost=9)
    tables.execute("UPDATE usage_counters SET request_id = 'r-1' WHERE id = 3")

    with pytest.raises(UsageError, match="request_id r-1 stands in 2026-10 and in 2026-11"):
        freeze(tables.url, NOVEMBER, "request_id", late_for=[october])

    # Of a month that was not billed, nothing is charged a second time.
    assert freeze(tables.url, NOVEMBER, "request_id").manifest.frozen.calls == 2
    tables.execute("UPDATE usage_counters SET request_id = '' WHERE id IN (1, 3)")
    assert freeze(tables.url, NOVEMBER, "request_id", late_for=[october]).manifest.frozen.calls == 2
