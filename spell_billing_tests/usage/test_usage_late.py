"""Late usage, on both databases: every difference to what was billed, once, per user."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from spell_billing.core.errors import IntegrityError
from spell_billing.core.month import Month
from spell_billing.usage.frozen import FrozenUsage
from spell_billing_tests.usage.late_rows import late_rows

SEPTEMBER, OCTOBER, NOVEMBER, DECEMBER = (Month(2026, number) for number in (9, 10, 11, 12))
MIDDLE = datetime(2026, 10, 15, 12, tzinfo=UTC)


def test_added_deleted_and_altered_rows_are_late_usage_of_their_users(
    database_url: str, make_source_tables: Any, freezer: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(database_url)
    tables.calls(
        [
            ("same", 100, MIDDLE),
            ("altered", 100, MIDDLE),
            ("deleted", 100, MIDDLE),
            ("more", 100, MIDDLE),
            ("moved", 100, MIDDLE),
        ]
    )
    october = freezer(database_url, OCTOBER)
    tables.execute(
        "UPDATE usage_counters SET cost_cents = 90 WHERE user_id = 'altered'",
        "DELETE FROM usage_counters WHERE user_id = 'deleted'",
        "UPDATE usage_counters SET user_id = 'heir' WHERE user_id = 'moved'",
    )
    tables.calls([("more", 7, OCTOBER.start), ("new", 5, OCTOBER.start), ("more", 1, NOVEMBER.start)])

    november = freezer(database_url, NOVEMBER, [october])

    assert late_rows(november) == [
        ("2026-10", "altered", 0, Decimal(-10)),
        ("2026-10", "deleted", -1, Decimal(-100)),
        ("2026-10", "heir", 1, Decimal(100)),
        ("2026-10", "more", 1, Decimal(7)),
        ("2026-10", "moved", -1, Decimal(-100)),
        ("2026-10", "new", 1, Decimal(5)),
    ]
    late = november.manifest.late
    assert late is not None
    assert [(str(one.month), one.version, one.users) for one in late.months] == [("2026-10", "v0001", 6)]
    assert (late.months[0].totals.calls, late.months[0].totals.cost_cents) == (1, Decimal(-98))
    assert november.manifest.late_checked == ("2026-10/v0001",)


def test_a_transaction_that_commits_after_the_freeze_with_a_smaller_id_and_time_is_found(
    postgres_url: str, make_source_tables: Any, freezer: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(postgres_url)
    with closing(psycopg.connect(postgres_url)) as slow:
        slow.execute(
            "INSERT INTO usage_counters (user_id, cost_cents, created_at) VALUES ('slow', 40, %s)", (MIDDLE,)
        )
        tables.calls([("quick", 1, OCTOBER.end.replace(month=10, day=31))])
        october = freezer(postgres_url, OCTOBER)
        slow.commit()

    november = freezer(postgres_url, NOVEMBER, [october])

    assert october.manifest.frozen.cost_cents == 1
    assert late_rows(november) == [("2026-10", "slow", 1, Decimal(40))]


def test_what_a_pinned_version_recorded_as_late_is_not_late_again(
    database_url: str, make_source_tables: Any, freezer: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(database_url)
    tables.calls([("user-1", 100, MIDDLE)])
    october = freezer(database_url, OCTOBER)
    tables.calls([("user-1", 5, MIDDLE)])
    november = freezer(database_url, NOVEMBER, [october])
    again = freezer(database_url, NOVEMBER, [october])
    tables.calls([("user-1", 2, MIDDLE)])

    december = freezer(database_url, DECEMBER, [october, november])

    assert late_rows(november) == late_rows(again) == [("2026-10", "user-1", 1, Decimal(5))]
    assert late_rows(december) == [("2026-10", "user-1", 1, Decimal(2))]


def test_an_unreadable_time_that_comes_late_stops_the_month_that_finds_it(
    sqlite_url: str, make_source_tables: Any, freezer: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(sqlite_url)
    october = freezer(sqlite_url, OCTOBER)
    tables.calls([("user-1", 5, "2026-10-15 noon")])

    (bad,) = freezer(sqlite_url, NOVEMBER, [october]).manifest.bad_rows.examples

    assert bad.problem == "created_at is '2026-10-15 noon', not an ISO 8601 time"


def test_frozen_rows_that_were_altered_are_nobody_s_late_usage(
    database_url: str, make_source_tables: Any, freezer: Callable[..., FrozenUsage]
) -> None:
    make_source_tables(database_url).calls([("user-1", 100, MIDDLE), ("user-2", 70, MIDDLE)])
    october = freezer(database_url, OCTOBER)
    path = october.directory / october.manifest.files[0].name
    path.write_bytes(path.read_bytes().replace(b"user-1", b"user-3"))

    with pytest.raises(IntegrityError, match=rf"{path.name} is not what was frozen"):
        freezer(database_url, NOVEMBER, [october])


def test_fractions_of_a_cent_are_late_to_the_last_digit(
    postgres_url: str, make_source_tables: Any, freezer: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(postgres_url, cost_cents="numeric", user_id="uuid")
    user = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
    tables.calls([(user, Decimal("0.25"), MIDDLE)])
    october = freezer(postgres_url, OCTOBER)
    tables.calls([(user, Decimal("0.000000000000000001"), MIDDLE)])

    november = freezer(postgres_url, NOVEMBER, [october])

    assert late_rows(november) == [("2026-10", user, 1, Decimal("0.000000000000000001"))]


def test_a_version_is_compared_only_before_later_months(
    sqlite_url: str, make_source_tables: Any, freezer: Callable[..., FrozenUsage]
) -> None:
    make_source_tables(sqlite_url)
    october = freezer(sqlite_url, OCTOBER)

    for month, late_for in ((OCTOBER, [october]), (SEPTEMBER, [october]), (NOVEMBER, [october, october])):
        with pytest.raises(ValueError, match="late_for"):
            freezer(sqlite_url, month, late_for)
