"""What only SQLite can do wrong: text times, values of any type, two copies of the library."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUnreachableError, parse_database_url
from spell_billing.usage.duck import open_duckdb
from spell_billing.usage.frozen import FrozenUsage, Totals
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.sqlite_sql import SqliteUsageSql
from spell_billing.usage.sqlite_times import MonthFilter
from spell_billing.usage.store import UsageStore
from spell_billing.usage.tables import Column

OCTOBER = Month(2026, 10)
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("user_id", pa.string()),
        ("cost_cents", pa.int64()),
        ("created_at", pa.timestamp("us", tz="UTC")),
    ]
)


@pytest.fixture
def freeze(sqlite_url: str, tmp_path: Path) -> Callable[..., FrozenUsage]:
    """Give a function that freezes October, or another month, from the test's database."""
    source = open_usage_source(parse_database_url(sqlite_url, setting="USAGE_DATABASE_URL"))
    store = UsageStore(tmp_path / "usage")
    return lambda month=OCTOBER, **options: store.freeze(source, month, **options)


@pytest.fixture(scope="module")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_duckdb(tmp_path_factory.mktemp("duck")) as connection:
        yield connection


@pytest.fixture(scope="module")
def scratch() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(
            "CREATE TABLE usage_counters (id INTEGER PRIMARY KEY, user_id, cost_cents, created_at)"
        )
        yield connection


def batch_of(texts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "id": list(range(len(texts))),
            "user_id": ["user-1"] * len(texts),
            "cost_cents": [1] * len(texts),
            "created_at": pa.array(texts, pa.string()),
            "problem": [""] * len(texts),
        }
    )


def counted_by_sqlite(scratch: sqlite3.Connection, texts: list[str]) -> int:
    scratch.execute("DELETE FROM usage_counters")
    scratch.executemany(
        "INSERT INTO usage_counters (user_id, cost_cents, created_at) VALUES ('user-1', 1, ?)",
        [(text,) for text in texts],
    )
    columns = {name: Column("text", nullable=True) for name in ("id", "user_id", "cost_cents", "created_at")}
    (calls, _, _), *_ = scratch.execute(SqliteUsageSql(columns).totals(OCTOBER)).fetchall()
    return int(calls)


@st.composite
def time_texts(draw: st.DrawFn) -> str:
    """Draw an ISO 8601 time, most within two days of the month's ends, in any spelling we promise to read."""
    boundary = draw(st.sampled_from([OCTOBER.start, OCTOBER.end]))
    microseconds = draw(st.integers(-172_800_000_000, 172_800_000_000) | st.sampled_from([-1, 0, 1]))
    offset = draw(st.none() | st.integers(-14 * 60 - 59, 14 * 60 + 59) | st.sampled_from([-330, 0, 120, 840]))
    moment = boundary + timedelta(microseconds=microseconds) + timedelta(minutes=offset or 0)
    precision = draw(st.integers(-1, 12))
    text = moment.strftime("%Y-%m-%d") + draw(st.sampled_from("T ")) + moment.strftime("%H:%M")
    if precision >= 0:
        text += moment.strftime(":%S")
    if precision > 0:
        text += (
            "."
            + f"{moment.microsecond:06d}{draw(st.sampled_from(['000000', '999999', '500000']))}"[:precision]
        )
    if offset is None:
        return text + draw(st.sampled_from(["", "", "Z"]))
    hours, minutes = divmod(abs(offset), 60)
    spellings = [f"{hours:02d}:{minutes:02d}", f"{hours:02d}{minutes:02d}"] + [f"{hours:02d}"] * (
        minutes == 0
    )
    return text + "+-"[offset < 0] + draw(st.sampled_from(spellings))


def as_python_reads(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@settings(max_examples=150)
@given(texts=st.lists(time_texts(), min_size=1, max_size=20))
@example(texts=["2026-10-01 00:00:00", "2026-10-01 00:00:00.000000", "2026-10-01"])
@example(texts=["2026-10-31 23:59:59.9999999", "2026-10-31T23:59:59.999999999Z"])
@example(texts=["2026-11-01T01:59:59.999999+02:00", "2026-11-01T02:00:00+02:00"])
@example(texts=["2026-09-30T18:30:00-0530", "2026-09-30 18:29:59.999999-0530", "2026-09-30T19:00-05"])
def test_text_times_are_read_as_python_reads_them_by_both_readers(
    duck: Any, scratch: sqlite3.Connection, texts: list[str]
) -> None:
    months_rows = MonthFilter(duck)

    kept = months_rows.keep(batch_of(texts), OCTOBER, SCHEMA).to_pylist()

    expected = {index: as_python_reads(text) for index, text in enumerate(texts)}
    expected = {index: one for index, one in expected.items() if OCTOBER.start <= one < OCTOBER.end}
    assert {row["id"]: row["created_at"] for row in kept} == expected
    assert months_rows.bad_rows.count == 0
    assert counted_by_sqlite(scratch, texts) == len(expected)


@settings(max_examples=150)
@given(
    text=st.text("0123456789-:+TZ .", max_size=30) | time_texts(),
    noise=st.text("0123456789-:+TZ .,a", max_size=2),
)
def test_whatever_the_text_it_is_read_as_python_reads_it_or_refused(duck: Any, text: str, noise: str) -> None:
    spoiled = text[:15] + noise + text[15:]
    months_rows = MonthFilter(duck)

    kept = months_rows.keep(batch_of([spoiled]), OCTOBER, SCHEMA).to_pylist()

    if months_rows.bad_rows.count == 0:
        moment = as_python_reads(spoiled)
        assert bool(kept) == (OCTOBER.start <= moment < OCTOBER.end)
        assert all(row["created_at"] == moment for row in kept)


UNREADABLE_TIMES: list[Any] = [
    "2026-10-15 24:00:00",
    "2026-10-15 12:60:00",
    "2026-10-15 12:00:60",
    "2026-10-32 12:00:00",
    "2026-10-15T12",
    "2026-10-15 12:00:00 UTC",
    "2026-10-15 12:00:00+15:00",
    "2026-10-15 12:00:00,5",
    "2026-10-15\t12:00:00",
    "2026-10-15 12:00:00\n",
    " 2026-10-15 12:00:00",
    "20261015T120000",
    "15/10/2026",
    "yesterday",
    "",
    1_792_065_600,
    1_792_065_600.5,
    b"2026-10-15 12:00:00",
    None,
]


def test_times_that_cannot_be_read_are_bad_rows(
    make_source_tables: Any, sqlite_url: str, freeze: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(sqlite_url, not_null=False)
    tables.calls([("user-1", 7, text) for text in UNREADABLE_TIMES])
    tables.calls([("user-1", 5, "2026-10-15 12:00:00")])

    manifest = freeze().manifest

    assert manifest.bad_rows.count == len(UNREADABLE_TIMES)
    assert {row.id for row in manifest.bad_rows.examples} == {
        str(1 + index) for index in range(len(UNREADABLE_TIMES))
    }
    assert all(row.problem.startswith("created_at is ") for row in manifest.bad_rows.examples)
    assert manifest.frozen == Totals(1, Decimal(5))


@pytest.mark.parametrize("text", ["0000-00-00 00:00:00", "2026-00-15 12:00:00", "1999-13-09", "2030-99-99"])
def test_a_date_of_no_month_is_a_bad_row_of_every_month(
    make_source_tables: Any, sqlite_url: str, freeze: Callable[..., FrozenUsage], text: str
) -> None:
    tables = make_source_tables(sqlite_url)
    tables.calls([("user-1", 7, text), ("user-1", 5, "2026-10-15 12:00:00")])

    (bad,) = freeze().manifest.bad_rows.examples

    assert bad.problem == f"created_at is '{text}', not an ISO 8601 time"


def test_values_of_the_wrong_kind_are_bad_rows(
    make_source_tables: Any, sqlite_url: str, freeze: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(sqlite_url, accounts=False)
    tables.execute(
        "DROP TABLE usage_counters",
        "CREATE TABLE usage_counters (id INTEGER PRIMARY KEY, user_id, cost_cents, created_at)",
    )
    wrong = [
        ("user-1", 12.5, "cost_cents is 12.5, not a whole number of cents"),
        ("user-1", "12 cents", "cost_cents is '12 cents', not a whole number of cents"),
        ("user-1", 1e300, "cost_cents is 1.0e+300, not a whole number of cents"),
        ("user-1", b"\x01", "cost_cents is X'01', not a whole number of cents"),
        (b"\x01", 1, "user_id is neither text nor an integer"),
        (1.5, 1, "user_id is neither text nor an integer"),
    ]
    tables.calls([(user, cost, "2026-10-01T00:00:00Z") for user, cost, _ in wrong])
    tables.calls([("user-2", 1, "2026-10-01T00:00:00Z")])

    manifest = freeze().manifest

    assert [(row.id, row.problem) for row in manifest.bad_rows.examples] == [
        (str(1 + index), problem) for index, (_, _, problem) in enumerate(wrong)
    ]
    assert manifest.frozen == Totals(1, Decimal(1))


def test_a_bad_row_of_the_next_month_does_not_stop_this_one(
    make_source_tables: Any, sqlite_url: str, freeze: Callable[..., FrozenUsage]
) -> None:
    make_source_tables(sqlite_url, not_null=False).calls([(None, 1, "2026-11-01 00:30:00")])

    assert freeze().manifest.bad_rows.count == 0
    assert freeze(OCTOBER.next()).manifest.bad_rows.count == 1


_ASK_FOR_THE_LOCK = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")
"""


def test_the_ledger_s_lock_on_the_same_file_survives_a_freeze(
    make_source_tables: Any, sqlite_url: str, freeze: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(sqlite_url)
    tables.execute("PRAGMA journal_mode=WAL")
    with closing(tables.connect()) as ledger:
        ledger.execute("BEGIN IMMEDIATE")

        freeze()

        # Another process asks for the lock that this one holds: it must be told to wait.
        path = sqlite_url.removeprefix("sqlite:///")
        other = subprocess.run(
            [sys.executable, "-c", _ASK_FOR_THE_LOCK, path], check=False, capture_output=True, text=True
        )
        assert "database is locked" in other.stderr
        ledger.rollback()


def test_a_path_with_special_characters_is_read(make_source_tables: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/50% of #1 & more.db"
    make_source_tables(url).calls([("user-1", 5, OCTOBER.start)])
    source = open_usage_source(parse_database_url(url, setting="USAGE_DATABASE_URL"))

    assert UsageStore(tmp_path / "usage").freeze(source, OCTOBER).manifest.frozen == Totals(1, Decimal(5))
    assert source.accounts().num_rows == 0


def test_a_file_that_is_no_database_is_named(sqlite_url: str, freeze: Callable[..., FrozenUsage]) -> None:
    Path(sqlite_url.removeprefix("sqlite:///")).write_text("no database, only words " * 100)

    with pytest.raises(DatabaseUnreachableError, match=r"test\.db \(USAGE_DATABASE_URL\)"):
        freeze()


def test_a_query_that_fails_on_the_way_is_told_and_nothing_is_frozen(
    make_source_tables: Any, sqlite_url: str, freeze: Callable[..., FrozenUsage], tmp_path: Path
) -> None:
    tables = make_source_tables(sqlite_url)
    tables.calls([("user-1", 5, OCTOBER.start)])
    tables.execute(
        "ALTER TABLE usage_counters RENAME TO kept",
        "CREATE VIEW usage_counters AS SELECT id, user_id, abs(cost_cents - 9223372036854775807 - 6) "
        "AS cost_cents, created_at FROM kept",
    )

    with pytest.raises(UsageError, match="integer overflow"):
        freeze()
    assert not list((tmp_path / "usage" / str(OCTOBER)).glob("v*"))


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(
    "time", [None, 5, b"2026-10-05", "", "2026", "2026-10-5 12:00:00", "5.10.2026", "20261005", "~"]
)
def test_a_time_of_no_day_is_found_among_good_ones_with_and_without_an_index(
    sqlite_url: str, make_source_tables: Any, freeze: Callable[..., FrozenUsage], *, indexed: bool, time: Any
) -> None:
    tables = make_source_tables(sqlite_url, not_null=False)
    if not indexed:
        tables.execute("DROP INDEX usage_counters_created_at")
    days = [
        (f"user-{day}", 1, f"2026-{month:02d}-{day:02d} 12:00:00") for month in (9, 10) for day in (4, 5, 6)
    ]
    tables.calls([*days, ("user-1", 1, time), *days])

    bad = freeze().manifest.bad_rows

    assert (bad.count, [row.id for row in bad.examples]) == (1, ["7"])
