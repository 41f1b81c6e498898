"""Freezing a month, on both databases: the exact rows, or a refusal in plain words."""

import errno
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUnreachableError
from spell_billing.settings.lakes import parse_usage_url
from spell_billing.usage import postgres, sqlite
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.frozen import FrozenUsage, Totals
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER = Month(2026, 10)
MICROSECOND = timedelta(microseconds=1)


def source_of(url: str) -> UsageSource:
    return open_usage_source(parse_usage_url(url, setting="USAGE_DATABASE_URL"))


@pytest.fixture
def store(tmp_path: Path) -> UsageStore:
    return UsageStore(tmp_path / "usage")


def rows_of(frozen: FrozenUsage) -> list[dict[str, Any]]:
    tables = [pq.read_table(frozen.directory / file.name) for file in frozen.manifest.files]
    return sorted((row for table in tables for row in table.to_pylist()), key=lambda row: str(row["id"]))


@pytest.fixture(params=["timestamptz", "timestamp"])
def time_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.of_kept_rows
def test_a_month_is_frozen_from_its_first_microsecond_to_its_last(
    database_url: str, make_source_tables: Any, store: UsageStore, time_type: str
) -> None:
    tables = make_source_tables(database_url, created_at=time_type)
    tables.calls(
        [
            ("before", 1, OCTOBER.start - MICROSECOND),
            ("first", 2, OCTOBER.start),
            ("last", 3, OCTOBER.end - MICROSECOND),
            ("after", 4, OCTOBER.end),
        ]
    )

    frozen = store.freeze(source_of(database_url), OCTOBER)

    assert rows_of(frozen) == [
        {"id": 2, "user_id": "first", "cost_cents": 2, "created_at": OCTOBER.start},
        {"id": 3, "user_id": "last", "cost_cents": 3, "created_at": OCTOBER.end - MICROSECOND},
    ]
    assert frozen.manifest.frozen == frozen.manifest.control == Totals(2, Decimal(5))
    assert frozen.manifest.bad_rows.count == 0


def test_a_month_without_usage_is_frozen_empty(
    database_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    make_source_tables(database_url)

    frozen = store.freeze(source_of(database_url), OCTOBER)

    assert rows_of(frozen) == []
    assert frozen.manifest.frozen == Totals(0, Decimal(0))


@pytest.mark.parametrize(
    ("user_type", "user"),
    [
        ("uuid", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        ("bigint", 42),
        ("text", "Ünïcode, 'quoted'\n🙂"),
    ],
)
def test_user_ids_of_any_type_are_text(
    database_url: str, make_source_tables: Any, store: UsageStore, user_type: str, user: Any
) -> None:
    make_source_tables(database_url, user_id=user_type).calls([(user, 1, OCTOBER.start)])

    frozen = store.freeze(source_of(database_url), OCTOBER)

    assert [one.user_id for one in aggregate(frozen).largest] == [str(user)]


@pytest.mark.of_kept_rows
@pytest.mark.parametrize("id_type", ["uuid", "text"])
def test_row_ids_of_any_type_are_kept(
    database_url: str, make_source_tables: Any, store: UsageStore, id_type: str
) -> None:
    tables = make_source_tables(database_url, id=id_type)
    name = "0b5c1f62-7a53-4a52-9d9e-0d5a4f5a2c11"
    tables.execute(
        f"INSERT INTO usage_counters (id, user_id, cost_cents, created_at) "
        f"VALUES ('{name}', 'user-1', 5, '2026-10-05 00:00:00+00:00')"
    )

    (row,) = rows_of(store.freeze(source_of(database_url), OCTOBER))

    assert str(row["id"]) == name


def test_a_blank_user_is_none_even_where_the_column_is_never_null(
    database_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    tables = make_source_tables(database_url)
    tables.calls([("", 1, OCTOBER.start), (" \t", 2, OCTOBER.start), (" user-1", 8, OCTOBER.start)])

    manifest = store.freeze(source_of(database_url), OCTOBER).manifest

    assert {(row.id, row.problem) for row in manifest.bad_rows.examples} == {
        ("1", "user_id is blank"),
        ("2", "user_id is blank"),
    }
    assert manifest.frozen == Totals(1, Decimal(8))


def test_rows_that_cannot_be_billed_are_named_and_left_out(
    database_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    tables = make_source_tables(database_url, not_null=False)
    tables.calls(
        [
            (None, 1, OCTOBER.start),
            ("user-1", None, OCTOBER.start),
            ("user-1", 7, None),
            ("user-1", 8, OCTOBER.start),
            (None, 1, OCTOBER.end),
        ]
    )

    manifest = store.freeze(source_of(database_url), OCTOBER).manifest

    assert manifest.bad_rows.count == 3
    assert {(row.id, row.problem) for row in manifest.bad_rows.examples} == {
        ("1", "user_id is missing"),
        ("2", "cost_cents is missing"),
        ("3", "created_at is missing"),
    }
    assert manifest.frozen == Totals(1, Decimal(8))


def test_a_thousand_bad_rows_are_counted_and_twenty_named(
    database_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    tables = make_source_tables(database_url, not_null=False)
    tables.calls([(None, 1, OCTOBER.start)] * 1000)

    bad = store.freeze(source_of(database_url), OCTOBER).manifest.bad_rows

    assert (bad.count, len(bad.examples)) == (1000, 20)


def test_negative_and_zero_costs_are_frozen_as_they_are(
    database_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    tables = make_source_tables(database_url)
    tables.calls([("user-1", -250, OCTOBER.start), ("user-1", 0, OCTOBER.start)])

    assert store.freeze(source_of(database_url), OCTOBER).manifest.frozen == Totals(2, Decimal(-250))


def test_a_sum_beyond_64_bits_is_exact(database_url: str, make_source_tables: Any, store: UsageStore) -> None:
    largest = 2**63 - 1
    make_source_tables(database_url).calls([("user-1", largest, OCTOBER.start)] * 5)

    frozen = store.freeze(source_of(database_url), OCTOBER)

    assert frozen.manifest.frozen == frozen.manifest.control == Totals(5, Decimal(5 * largest))


def test_a_missing_table_or_column_is_named_with_the_remedy(
    database_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    source = source_of(database_url)
    with pytest.raises(UsageError, match=r"table usage_counters is missing .*USAGE_DATABASE_URL"):
        store.freeze(source, OCTOBER)

    tables = make_source_tables(database_url, accounts=False)
    with pytest.raises(UsageError, match="billing_accounts is missing"):
        source.accounts()

    tables.execute(
        "ALTER TABLE usage_counters RENAME COLUMN cost_cents TO cost",
        "CREATE TABLE billing_accounts (user_id text)",
    )
    with pytest.raises(UsageError, match=r"usage_counters .* has no column cost_cents") as caught:
        store.freeze(source, OCTOBER)
    assert "view" in caught.value.remedy
    with pytest.raises(UsageError, match=r"billing_accounts .* has no column stripe_customer_id"):
        source.accounts()
    assert store.versions(OCTOBER) == []


def test_a_view_serves_as_well_as_a_table(
    database_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    tables = make_source_tables(database_url)
    tables.calls([("user-1", 5, OCTOBER.start)])
    tables.execute(
        "ALTER TABLE usage_counters RENAME TO raw_calls",
        "CREATE VIEW usage_counters AS "
        "SELECT id, user_id, cost_cents * 2 AS cost_cents, created_at FROM raw_calls",
    )

    assert store.freeze(source_of(database_url), OCTOBER).manifest.frozen == Totals(1, Decimal(10))


@pytest.mark.parametrize(
    "url", ["postgresql://u:secret@127.0.0.1:1/spell", "sqlite:////nowhere/at/all/spell.db"]
)
def test_an_unreachable_source_is_named_without_its_password(url: str, store: UsageStore) -> None:
    for act in (lambda: store.freeze(source_of(url), OCTOBER), source_of(url).accounts):
        with pytest.raises(DatabaseUnreachableError, match="USAGE_DATABASE_URL") as caught:
            act()
        assert "secret" not in str(caught.value)


def test_progress_starts_when_the_rows_are_counted_and_ends_with_their_number(
    database_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    make_source_tables(database_url).calls([("user-1", 1, OCTOBER.start)] * 50)
    seen: list[tuple[int, int]] = []

    store.freeze(source_of(database_url), OCTOBER, on_progress=lambda *counts: seen.append(counts))

    assert (seen[0], seen[-1]) == ((0, 50), (50, 50))


def test_progress_that_cannot_be_shown_any_more_ends_the_freeze(
    database_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    make_source_tables(database_url).calls([("user-1", 1, OCTOBER.start)] * 50)

    def closed_terminal(done: int, _: int) -> None:
        if done:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError, match="Broken pipe"):
        store.freeze(source_of(database_url), OCTOBER, on_progress=closed_terminal)
    assert store.versions(OCTOBER) == []


@pytest.mark.of_kept_rows
def test_rows_committed_while_freezing_belong_to_the_next_freeze_in_every_query(
    database_url: str, make_source_tables: Any, store: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_source_tables(database_url)
    if tables.is_sqlite:
        tables.execute("PRAGMA journal_mode=WAL")
    september = OCTOBER.previous()
    tables.calls([("user-0001", 10, september.start)])
    source = source_of(database_url)
    earlier = store.freeze(source, september)
    halves = OCTOBER.start, OCTOBER.end - timedelta(microseconds=1)
    tables.calls([("user-1", 1, moment) for moment in halves] * 100)
    adapter, name = sqlite._SqliteTables if tables.is_sqlite else postgres._PostgresTables, "timeless"
    original: Callable[..., Any] = getattr(adapter, name)

    def commit_then_look(*arguments: Any) -> Any:
        tables.calls([("intruder", 1000, moment) for moment in (*halves, september.start)])
        monkeypatch.setattr(adapter, name, original)
        return original(*arguments)

    monkeypatch.setattr(adapter, name, commit_then_look)
    during = store.freeze(source, OCTOBER, late_for=[earlier])
    after = store.freeze(source, OCTOBER, late_for=[earlier])

    assert during.manifest.frozen == during.manifest.control == Totals(200, Decimal(200))
    assert during.manifest.late is None
    assert after.manifest.frozen == Totals(202, Decimal(2200))
    assert after.manifest.late is not None


@pytest.mark.of_kept_rows
def test_rows_that_differ_from_the_database_s_own_count_are_refused(
    database_url: str, make_source_tables: Any, store: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_source_tables(database_url)
    tables.calls([("user-1", 5, OCTOBER.start)])
    adapter = sqlite._SqliteTables if tables.is_sqlite else postgres._PostgresTables
    original: Callable[..., Any] = adapter.control

    def one_cent_more(*arguments: Any) -> Any:
        found = original(*arguments)
        wrong = Totals(1, Decimal(6))
        return wrong if tables.is_sqlite else (wrong, found[1])

    monkeypatch.setattr(adapter, "control", one_cent_more)

    with pytest.raises(IntegrityError, match=r"1 rows of 5 cents .* 1 rows of 6 cents"):
        store.freeze(source_of(database_url), OCTOBER)
    assert store.versions(OCTOBER) == []


def test_the_source_is_never_written(database_url: str, make_source_tables: Any, store: UsageStore) -> None:
    tables = make_source_tables(database_url)
    tables.calls([("user-1", 5, datetime(2026, 10, 5, tzinfo=UTC))])
    source = source_of(database_url)
    with closing(tables.connect()) as writer:
        writer.execute(
            "INSERT INTO usage_counters (user_id, cost_cents, created_at) VALUES ('u', 1, '2026-10-05')"
        )

        # Somebody else's open write transaction neither blocks the freeze nor is waited for.
        frozen = store.freeze(source, OCTOBER)
        source.accounts()

        writer.rollback()
    assert frozen.manifest.frozen == Totals(1, Decimal(5))
