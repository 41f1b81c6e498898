"""Bad rows of billed months: a row that cannot be billed any more moves no money, on both databases."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from spell_billing.core.month import Month
from spell_billing.usage.frozen import FrozenUsage
from spell_billing_tests.usage.late_rows import late_rows

OCTOBER, NOVEMBER, DECEMBER = (Month(2026, number) for number in (10, 11, 12))
MIDDLE = datetime(2026, 10, 15, 12, tzinfo=UTC)
Freezer = Callable[..., FrozenUsage]


@pytest.fixture
def tables(make_source_tables: Any, database_url: str) -> Any:
    """Make tables in which users, costs and ids may be missing, and ids may repeat."""
    made = make_source_tables(database_url, not_null=False)
    kinds = "user_id text, cost_cents bigint, created_at " + ("text" if made.is_sqlite else "timestamptz")
    made.execute("DROP TABLE usage_counters", f"CREATE TABLE usage_counters (id bigint, {kinds})")
    return made


def test_a_bad_row_of_a_billed_month_is_named_with_its_month_and_stops_nobody(
    database_url: str, make_source_tables: Any, freezer: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(database_url, not_null=False)
    october = freezer(database_url, OCTOBER)
    tables.calls([(None, 5, MIDDLE), ("user-1", None, MIDDLE), ("", 6, MIDDLE)], first_id=7)
    tables.calls([("user-1", 3, NOVEMBER.start)])

    november = freezer(database_url, NOVEMBER, [october]).manifest

    assert november.bad_rows.count == 0
    assert november.frozen.cost_cents == 3
    assert [(row.id, row.problem) for row in november.earlier_bad_rows.examples] == [
        ("7", "user_id is missing in 2026-10"),
        ("8", "cost_cents is missing in 2026-10"),
        ("9", "user_id is blank in 2026-10"),
    ]
    assert freezer(database_url, NOVEMBER).manifest.earlier_bad_rows.count == 0


LOST = ["user_id = NULL", "user_id = ''", "user_id = '  '", "cost_cents = NULL"]


@pytest.mark.parametrize("lost", LOST)
def test_a_frozen_row_that_cannot_be_billed_any_more_counts_as_it_was_frozen(
    database_url: str, make_source_tables: Any, freezer: Callable[..., FrozenUsage], lost: str
) -> None:
    tables = make_source_tables(database_url, not_null=False)
    tables.calls([("user-1", 5, MIDDLE), ("user-2", 7, MIDDLE), ("user-2", 11, MIDDLE)], first_id=1)
    october = freezer(database_url, OCTOBER)
    tables.execute(f"UPDATE usage_counters SET {lost} WHERE id IN (2, 3)")
    tables.calls([("user-1", 2, MIDDLE), (None, 9, MIDDLE)], first_id=10)

    november = freezer(database_url, NOVEMBER, [october])

    assert late_rows(november) == [("2026-10", "user-1", 1, Decimal(2))]
    assert november.manifest.earlier_bad_rows.count == 3


LOSE = "UPDATE usage_counters SET user_id = NULL WHERE "


def add(tables: Any, *rows: tuple[int | str | None, str | None, int | None]) -> None:
    """Insert rows of October as (id, user_id, cost_cents)."""
    for row in rows:
        values = ", ".join("NULL" if value is None else repr(value) for value in row)
        tables.execute(f"INSERT INTO usage_counters VALUES ({values}, '{MIDDLE}')")


def test_a_row_without_an_id_that_loses_its_user_is_given_back_to_nobody_and_charges_nobody(
    tables: Any, freezer: Freezer
) -> None:
    add(tables, (None, "ann", 800), (None, "bob", 900), (None, "cem", 1), (4, "dan", 5))
    october = freezer(tables.url, OCTOBER)
    tables.execute(LOSE + "user_id = 'cem'", "DELETE FROM usage_counters WHERE id = 4")
    add(tables, (5, "eve", 7))

    november = freezer(tables.url, NOVEMBER, [october])

    # Which loss the bad row explains cannot be told: dan's waits as well, and what was added does not.
    assert late_rows(november) == [("2026-10", "eve", 1, Decimal(7))]
    assert [row.id for row in november.manifest.earlier_bad_rows.examples] == ["no id"]

    tables.execute("DELETE FROM usage_counters WHERE user_id IS NULL")
    december = freezer(tables.url, DECEMBER, [october, november])
    assert late_rows(december) == [
        ("2026-10", "cem", -1, Decimal(-1)),
        ("2026-10", "dan", -1, Decimal(-5)),
    ]


def test_ids_of_blank_text_are_no_ids(make_source_tables: Any, postgres_url: str, freezer: Freezer) -> None:
    tables = make_source_tables(postgres_url, not_null=False)
    kinds = "id text, user_id text, cost_cents bigint, created_at timestamptz"
    tables.execute("DROP TABLE usage_counters", f"CREATE TABLE usage_counters ({kinds})")
    add(tables, *[("", user, 100) for user in ("ann", "bob", "cem")])
    october = freezer(tables.url, OCTOBER)
    tables.execute(LOSE + "user_id = 'cem'")

    assert late_rows(freezer(tables.url, NOVEMBER, [october])) == []


@pytest.mark.parametrize(
    ("change", "late"),
    [
        ("UPDATE usage_counters SET cost_cents = 200 WHERE id = 1", [("ann", 0, -800)]),
        ("UPDATE usage_counters SET cost_cents = 3000 WHERE id = 1", [("ann", 0, 2000)]),
        ("UPDATE usage_counters SET user_id = 'bob' WHERE id = 1", [("ann", -1, -1000), ("bob", 1, 1000)]),
        (f"INSERT INTO usage_counters VALUES (9, 'ann', 800, '{MIDDLE}')", [("ann", 1, 800)]),
    ],
    ids=["cheaper", "dearer", "moved", "added"],
)
def test_a_row_that_changed_after_billing_and_then_cannot_be_billed_moves_no_more_money(
    tables: Any, freezer: Freezer, change: str, late: list[Any]
) -> None:
    add(tables, (1, "ann", 1000), (2, "ann", 50), (3, "bob", 60), (4, "cem", 70))
    october = freezer(tables.url, OCTOBER)
    tables.execute(change)
    november = freezer(tables.url, NOVEMBER, [october])
    assert [row[1:] for row in late_rows(november)] == late

    tables.execute(LOSE + "id IN (1, 9)", "DELETE FROM usage_counters WHERE id = 4")
    december = freezer(tables.url, DECEMBER, [october, november])

    # Of cem nothing was ever late: no bad row is theirs. A lake's sums tell nothing of single rows.
    assert late_rows(december) == ([] if tables.is_lake else [("2026-10", "cem", -1, Decimal(-70))])


def test_ids_that_were_given_anew_within_a_month_charge_and_credit_nobody(
    tables: Any, freezer: Freezer
) -> None:
    add(tables, *[(number, f"user-{number}", 100 * number) for number in range(1, 5)])
    october = freezer(tables.url, OCTOBER)
    tables.execute("UPDATE usage_counters SET id = 5 - id", LOSE + "id = 1")

    assert late_rows(freezer(tables.url, NOVEMBER, [october])) == []


def test_a_bad_copy_beside_a_good_row_charges_nobody(tables: Any, freezer: Freezer) -> None:
    add(tables, (1, "ann", 1000), (2, "bob", 1000))
    october = freezer(tables.url, OCTOBER)
    add(tables, (1, None, 1000), (2, None, 1000))

    assert late_rows(freezer(tables.url, NOVEMBER, [october])) == []


@pytest.mark.parametrize("lost", LOST)
def test_what_a_user_added_is_charged_beside_a_frozen_row_that_is_recognized(
    make_source_tables: Any, database_url: str, freezer: Freezer, lost: str
) -> None:
    tables = make_source_tables(database_url, not_null=False)
    tables.calls([("ann", 5, MIDDLE), ("bob", 7, MIDDLE)], first_id=1)
    october = freezer(database_url, OCTOBER)
    tables.execute(f"UPDATE usage_counters SET {lost} WHERE id = 1")
    tables.calls([("ann", 5, MIDDLE)], first_id=3)

    late = late_rows(freezer(database_url, NOVEMBER, [october]))

    # Of a lake only sums are known.
    assert late == ([] if tables.is_lake else [("2026-10", "ann", 1, Decimal(5))])


def test_a_refund_that_cannot_be_billed_any_more_charges_nobody(tables: Any, freezer: Freezer) -> None:
    add(tables, (1, "ann", 1000), (2, "ann", -300))
    october = freezer(tables.url, OCTOBER)
    tables.execute(LOSE + "id = 2")

    assert late_rows(freezer(tables.url, NOVEMBER, [october])) == []
