"""What each user has used so far is what a freeze would take now, for every user at once."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUnreachableError
from spell_billing.settings.lakes import UsageUrl, parse_usage_url
from spell_billing.usage.aggregate import rows_of_user
from spell_billing.usage.frozen import Totals
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

MARCH = Month(2025, 3)
MICROSECOND = timedelta(microseconds=1)


def named(url: str) -> UsageUrl:
    return parse_usage_url(url, setting="USAGE_DATABASE_URL")


@pytest.mark.parametrize("created_at", ["timestamptz", "timestamp"])
@pytest.mark.parametrize("cost_cents", ["bigint", "numeric(20,4)"])
def test_it_is_what_the_freeze_sees_to_the_microsecond(
    database_url: str,
    make_source_tables: Callable[..., Any],
    tmp_path: Path,
    created_at: str,
    cost_cents: str,
) -> None:
    tables = make_source_tables(database_url, created_at=created_at, cost_cents=cost_cents)
    moments = [MARCH.start - MICROSECOND, MARCH.start, MARCH.end - MICROSECOND, MARCH.end]
    tables.calls([("user-0001", 1 << place, moment) for place, moment in enumerate(moments)])
    tables.calls([("user-0002", -4, MARCH.start), ("user-0002", 10**15, MARCH.start)])

    found = open_usage_source(named(database_url)).so_far(MARCH)

    assert found == {"user-0001": Totals(2, Decimal(6)), "user-0002": Totals(2, Decimal(10**15 - 4))}
    frozen = UsageStore(tmp_path).freeze(open_usage_source(named(database_url)), MARCH)
    assert frozen.manifest.frozen == Totals(4, Decimal(10**15 + 2))
    for user, totals in found.items() if not tables.is_lake else ():
        days = rows_of_user(frozen, user)
        assert (sum(day.calls for day in days), sum(day.cost_cents for day in days)) == (
            totals.calls,
            totals.cost_cents,
        )


def test_a_row_that_cannot_be_billed_is_left_out(
    database_url: str, make_source_tables: Callable[..., Any]
) -> None:
    tables = make_source_tables(database_url, not_null=False)
    tables.calls([("user-0001", 5, MARCH.start), ("user-0001", None, MARCH.start), (None, 7, MARCH.start)])

    assert open_usage_source(named(database_url)).so_far(MARCH) == {"user-0001": Totals(1, Decimal(5))}


def test_a_month_without_calls_is_empty_and_a_missing_table_is_named(
    database_url: str, make_source_tables: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match="usage_counters is missing"):
        open_usage_source(named(database_url)).so_far(MARCH)
    make_source_tables(database_url)

    assert open_usage_source(named(database_url)).so_far(MARCH) == {}


def test_a_database_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachableError, match="USAGE_DATABASE_URL"):
        open_usage_source(named(f"sqlite:///{tmp_path / 'none.db'}")).so_far(MARCH)
