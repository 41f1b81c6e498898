"""Usage in a lake, read by DuckDB: the sums of users are frozen, exactly, or the month is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from spell_billing.core.erasure import Erasure
from spell_billing.core.errors import IntegrityError, UsageError, UsageInterruptedError
from spell_billing.core.month import Month
from spell_billing.settings.lakes import parse_usage_url
from spell_billing.usage.aggregate import aggregate, sums_of_user
from spell_billing.usage.contract import RowKeeper, SourceRules, UsageSource
from spell_billing.usage.erasing import erase_in_store
from spell_billing.usage.frozen import FrozenUsage, Totals
from spell_billing.usage.lake import _LakeTables
from spell_billing.usage.manifest import read_manifest
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER, NOVEMBER = Month(2026, 10), Month(2026, 11)
MIDDLE = datetime(2026, 10, 15, 12, tzinfo=UTC)


def source_of(url: str, items_by: str | None = None) -> UsageSource:
    return open_usage_source(
        parse_usage_url(url, setting="USAGE_DATABASE_URL"), SourceRules(items_by=items_by)
    )


@pytest.fixture
def store(tmp_path: Path) -> UsageStore:
    return UsageStore(tmp_path / "usage")


def sums_in(frozen: FrozenUsage) -> dict[str, tuple[int, Decimal]]:
    (file,) = frozen.manifest.files
    rows = pq.read_table(frozen.directory / file.name).to_pylist()
    return {row["user_id"]: (row["calls"], row["cost_cents"]) for row in rows}


def late_in(frozen: FrozenUsage) -> list[tuple[str, int, Decimal]]:
    late = frozen.manifest.late
    rows = pq.read_table(frozen.directory / late.file.name).to_pylist() if late else []
    return [(row["user_id"], row["calls"], row["cost_cents"]) for row in rows]


def test_the_sums_of_users_are_frozen_with_a_fingerprint_and_no_row(
    lake_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    tables = make_source_tables(lake_url, cost_cents="decimal(20, 4)", created_at="timestamp")
    tick = timedelta(microseconds=1)
    edges = (OCTOBER.start - tick, OCTOBER.start, OCTOBER.end - tick)
    tables.calls([("ann", Decimal("0.0001"), moment) for moment in (*edges, OCTOBER.end)])
    tables.calls([("bob", Decimal(-7), MIDDLE)])

    frozen = store.freeze(source_of(lake_url), OCTOBER)

    assert sums_in(frozen) == {"ann": (2, Decimal("0.0002")), "bob": (1, Decimal(-7))}
    manifest = read_manifest(frozen.directory)
    assert manifest == frozen.manifest
    assert (manifest.format_version, manifest.backend) == (3, "duckdb")
    assert manifest.fingerprint == sum(sums_of_user(frozen, user).fingerprint for user in ("ann", "bob"))
    assert manifest.frozen == manifest.control == Totals(3, Decimal("-6.9998"))
    assert aggregate(frozen).totals == manifest.frozen


def test_rows_that_were_exchanged_at_the_same_sum_are_told_from_the_frozen_ones(
    lake_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    tables = make_source_tables(lake_url)
    tables.calls([("ann", 5, MIDDLE), ("bob", 5, MIDDLE)])
    source = source_of(lake_url)
    frozen = store.freeze(source, OCTOBER)
    assert isinstance(source, RowKeeper)
    assert source.evidence(frozen, "ann").is_as_frozen is True

    tables.execute("UPDATE usage_counters SET created_at = created_at + INTERVAL 1 DAY WHERE user_id = 'ann'")

    found = source.evidence(frozen, "ann")
    assert (found.days[0].day, found.is_as_frozen) == (MIDDLE.date() + timedelta(days=1), False)
    assert source.evidence(frozen, "bob").is_as_frozen is True
    other_engine = replace(frozen, manifest=replace(frozen.manifest, backend="spark"))
    assert source.evidence(other_engine, "bob").is_as_frozen is None


def test_the_same_month_from_sqlite_and_from_a_lake_is_charged_the_same(
    lake_url: str, sqlite_url: str, make_source_tables: Any, tmp_path: Path
) -> None:
    files = []
    for url in (lake_url, sqlite_url):
        tables = make_source_tables(url)
        tables.execute(
            "ALTER TABLE usage_counters ADD COLUMN quantity bigint",
            "CREATE TABLE rate_cards (item text, model text, unit text, up_to text, unit_price_cents text)",
            "INSERT INTO rate_cards VALUES ('/v1/chat', 'graduated', 'quantity', '100', '0.5'), "
            "('/v1/chat', 'graduated', 'quantity', NULL, '0.25')",
        )
        tables.calls([("ann", 3, MIDDLE)] * 4 + [("bob", 2, MIDDLE)])
        tables.execute("UPDATE usage_counters SET quantity = 60, endpoint = ' /v1/chat ' WHERE id < 4")
        store = UsageStore(tmp_path / url.partition(":")[0])
        frozen = store.freeze(source_of(url, "endpoint"), OCTOBER)
        aggregate(frozen)
        names = ("user_usage.parquet", "user_items.parquet")
        files.append([pq.read_table(frozen.directory / name) for name in names])
        tables.calls([("ann", 3, MIDDLE)], first_id=90)
        tables.execute("UPDATE usage_counters SET quantity = 10, endpoint = '/v1/chat' WHERE id = 90")
        november = store.freeze(source_of(url, "endpoint"), NOVEMBER, late_for=[frozen])
        so_far = source_of(url, "endpoint").so_far(OCTOBER)
        of_ann = source_of(url, "endpoint").spending("ann", OCTOBER).month
        files[-1] += [late_in(november), so_far, of_ann]

    assert [each.to_pylist() for each in files[0][:2]] == [each.to_pylist() for each in files[1][:2]]
    assert files[0][0].to_pylist()[0]["cost_cents"] == Decimal(73)
    assert files[0][2:] == files[1][2:]
    assert files[0][2] == [("ann", 1, Decimal("2.5"))]
    assert files[0][3]["ann"] == files[0][4] == Totals(5, Decimal("75.5"))


def test_a_month_frozen_as_rows_is_compared_with_the_lake_that_the_platform_moved_to(
    lake_url: str, sqlite_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    for url in (sqlite_url, lake_url):
        make_source_tables(url, not_null=False).calls([("ann", 5, MIDDLE), ("bob", 7, MIDDLE)], first_id=1)
    october = store.freeze(source_of(sqlite_url), OCTOBER)
    lake = source_of(lake_url)

    assert late_in(store.freeze(lake, NOVEMBER, late_for=[october])) == []


def test_while_a_summed_month_has_bad_rows_nobody_s_loss_counts_and_then_it_does(
    lake_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    tables = make_source_tables(lake_url, not_null=False)
    tables.calls([("ann", 5, MIDDLE), ("ann", 7, MIDDLE), ("bob", 7, MIDDLE)], first_id=1)
    october = store.freeze(source_of(lake_url), OCTOBER)
    tables.execute("UPDATE usage_counters SET cost_cents = NULL WHERE id = 1")
    tables.calls([("bob", 1, MIDDLE)], first_id=10)

    waits = store.freeze(source_of(lake_url), NOVEMBER, late_for=[october])
    tables.execute("DELETE FROM usage_counters WHERE id = 1")
    counts = store.freeze(source_of(lake_url), NOVEMBER, late_for=[october])

    assert (late_in(waits), waits.manifest.earlier_bad_rows.count) == ([("bob", 1, Decimal(1))], 1)
    assert late_in(counts) == [("ann", -1, Decimal(-5)), ("bob", 1, Decimal(1))]


@pytest.mark.parametrize(
    ("amount", "sentence"),
    [
        (
            "99999999999999999.5 * (1 - i % 2 * 2)",
            r"1,100 calls of 2026-10 of up to 9{17}\.5 .* added up exactly",
        ),
        ("999999999999999999", "Reading duckdb://.* failed: .*Overflow in "),
    ],
)
def test_what_cannot_be_added_up_exactly_is_refused(
    lake_url: str, make_source_tables: Any, store: UsageStore, amount: str, sentence: str
) -> None:
    tables = make_source_tables(lake_url, cost_cents="decimal(38, 18)")
    tables.execute(
        "INSERT INTO usage_counters (id, user_id, cost_cents, created_at) SELECT i, 'user-' || i, "
        f"({amount})::DECIMAL(38, 18), '2026-10-15'::TIMESTAMPTZ FROM range(1100) AS t(i)"
    )

    with pytest.raises(UsageError, match=sentence) as refused:
        store.freeze(source_of(lake_url), OCTOBER)

    assert "absurd amounts" in refused.value.remedy
    assert store.versions(OCTOBER) == []


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"cost_cents": "double"}, "cost_cents has the type float64, which cannot be billed exactly"),
        ({"cost_cents": "decimal(38, 20)"}, r"cost_cents has the type decimal\(38, 20\)"),
        ({"created_at": "text"}, "created_at has the type string"),
        ({"user_id": "double"}, "user_id has the type float64"),
    ],
)
def test_types_that_are_not_exact_are_refused(
    lake_url: str, make_source_tables: Any, store: UsageStore, columns: dict[str, str], sentence: str
) -> None:
    make_source_tables(lake_url, **columns)

    with pytest.raises(UsageError, match=sentence):
        store.freeze(source_of(lake_url), OCTOBER)


def test_files_that_appear_while_a_month_is_read_belong_to_the_next_freeze(
    lake_url: str, make_source_tables: Any, store: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_source_tables(lake_url)
    tables.calls([("ann", 5, MIDDLE)])
    part = tables.folder / "usage_counters" / "part-0.parquet"
    once(monkeypatch, lambda: shutil.copy(part, part.with_name("part-1.parquet")))

    during = store.freeze(source_of(lake_url), OCTOBER)

    assert during.manifest.frozen == Totals(1, Decimal(5))
    with pytest.raises(UsageError, match="id 1 stands twice"):
        store.freeze(source_of(lake_url), OCTOBER)


def test_files_that_are_changed_while_a_month_is_read_are_refused_for_now(
    lake_url: str, make_source_tables: Any, store: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_source_tables(lake_url)
    tables.calls([("ann", 5, MIDDLE)])
    once(monkeypatch, lambda: tables.calls([("ann", 6, MIDDLE)]))

    with pytest.raises(UsageInterruptedError, match=r"rows came or went|was changed or removed"):
        store.freeze(source_of(lake_url), OCTOBER)

    assert store.versions(OCTOBER) == []
    assert store.freeze(source_of(lake_url), OCTOBER).manifest.frozen == Totals(2, Decimal(11))


def test_an_engine_whose_own_total_differs_from_its_sums_is_not_believed(
    lake_url: str, make_source_tables: Any, store: UsageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_source_tables(lake_url).calls([("ann", 5, MIDDLE)])
    original = _LakeTables._control

    def one_cent_more(tables: Any, reader: Any) -> Any:
        _, found = original(tables, reader)
        return Totals(1, Decimal(6)), found

    monkeypatch.setattr(_LakeTables, "_control", one_cent_more)

    with pytest.raises(IntegrityError, match=r"add up to 1 calls of 5 cents, .* total is 1 calls of 6 cents"):
        store.freeze(source_of(lake_url), OCTOBER)


def test_a_duckdb_file_serves_as_well_as_a_folder(
    tmp_path: Path, lake_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    tables = make_source_tables(lake_url)
    tables.calls([("ann", 5, MIDDLE)])
    tables.execute("ALTER TABLE usage_counters RENAME user_id TO User_ID")
    file = tmp_path / "platform" / "platform.duckdb"

    frozen = store.freeze(source_of(f"duckdb://{file}"), OCTOBER)

    assert sums_in(frozen) == {"ann": (1, Decimal(5))}
    with duckdb.connect(str(file)) as unlocked:
        assert unlocked.execute("SELECT count(*) FROM usage_counters").fetchone() == (1,)


def test_an_erased_user_keeps_the_sums_under_the_pseudonym(
    lake_url: str, make_source_tables: Any, store: UsageStore
) -> None:
    make_source_tables(lake_url).calls([("ann", 5, MIDDLE), ("bob", 7, MIDDLE)])
    aggregate(store.freeze(source_of(lake_url), OCTOBER))
    erasure = Erasure("ann", "erased-0123456789abcdef0123456789abcdef")

    assert erase_in_store(store, erasure, until=NOVEMBER) == 1

    frozen = store.latest(OCTOBER)
    assert frozen is not None
    store.verify(frozen)
    assert sums_in(frozen) == {erasure.pseudonym: (1, Decimal(5)), "bob": (1, Decimal(7))}
    assert aggregate(frozen).totals == Totals(2, Decimal(12))


def once(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something after the engine's own total, before the sums of users."""
    original = _LakeTables._control

    def control(tables: Any, reader: Any) -> Any:
        found = original(tables, reader)
        monkeypatch.setattr(_LakeTables, "_control", original)
        act()
        return found

    monkeypatch.setattr(_LakeTables, "_control", control)
