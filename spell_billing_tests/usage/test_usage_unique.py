"""One row counts once: where the database does not guarantee it, copies are found before the bill."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.lakes import parse_usage_url
from spell_billing.usage import unique
from spell_billing.usage.contract import SourceRules
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER, NOVEMBER = Month(2026, 10), Month(2026, 11)
MIDDLE = datetime(2026, 10, 15, 12, tzinfo=UTC)
SHAPE = "user_id text NOT NULL, cost_cents bigint NOT NULL, created_at timestamptz NOT NULL"
PARTITIONED = (
    f"CREATE TABLE usage_counters (id bigint NOT NULL, {SHAPE}{{key}}) PARTITION BY RANGE ({{by}})",
    "CREATE TABLE one PARTITION OF usage_counters FOR VALUES FROM ({low}) TO ({middle})",
    "CREATE TABLE two PARTITION OF usage_counters FOR VALUES FROM ({middle}) TO ({high})",
)
BY_TIME = {"by": "created_at", "low": "'2026-10-01'", "middle": "'2026-10-16'", "high": "'2026-12-01'"}
BY_ID = {"by": "id", "low": "0", "middle": "8", "high": "1000"}


@pytest.fixture
def store(tmp_path: Path) -> UsageStore:
    return UsageStore(tmp_path / "usage")


@pytest.fixture
def freeze(store: UsageStore) -> Callable[..., FrozenUsage]:
    """Give a function that freezes October from the database of a URL."""

    def act(url: str, month: Month = OCTOBER, column: str | None = None, **options: Any) -> FrozenUsage:
        rules = SourceRules(dedupe_column=column)
        source = open_usage_source(parse_usage_url(url, setting="USAGE_DATABASE_URL"), rules)
        return store.freeze(source, month, **options)

    return act


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the columns that a freeze proves itself."""
    columns: list[str] = []
    original = unique.refuse_repeated

    def refuse(month: Month, column: str, found: Any) -> None:
        columns.append(column)
        original(month, column, found)

    monkeypatch.setattr(unique, "refuse_repeated", refuse)
    return columns


def tables_in(make_source_tables: Any, url: str, *statements: str) -> Any:
    """Make a `usage_counters` of one's own beside the platform's other tables."""
    tables = make_source_tables(url)
    tables.execute("DROP TABLE usage_counters", *statements)
    return tables


def rows(*ids: int, day: int = 15) -> tuple[str, ...]:
    moment = f"2026-10-{day:02} 12:00:00+00:00"
    return tuple(f"INSERT INTO usage_counters VALUES ({each}, 'user-1', 10, '{moment}')" for each in ids)


def test_an_id_that_a_partitioned_table_has_twice_is_refused_by_name(
    make_source_tables: Any, postgres_url: str, store: UsageStore, freeze: Callable[..., FrozenUsage]
) -> None:
    statements = (each.format(key=", PRIMARY KEY (id, created_at)", **BY_TIME) for each in PARTITIONED)
    tables = tables_in(make_source_tables, postgres_url, *statements)
    tables.execute(*rows(7, 8), *rows(7, day=20))

    with pytest.raises(UsageError, match=r"usage_counters of 2026-10 id 7 stands twice\. ") as refused:
        freeze(postgres_url)

    assert "correct the view" in refused.value.remedy
    assert store.versions(OCTOBER) == []


def test_a_view_that_fans_out_or_archives_twice_is_refused(
    make_source_tables: Any, database_url: str, store: UsageStore, freeze: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(database_url)
    tables.calls([("user-1", 10, MIDDLE)] * 3, first_id=7)
    tables.execute(
        "ALTER TABLE usage_counters RENAME TO calls",
        "CREATE TABLE archive AS SELECT * FROM calls WHERE id <> 8",
        "CREATE VIEW usage_counters AS SELECT * FROM calls UNION ALL SELECT * FROM archive "
        "UNION ALL SELECT * FROM archive WHERE id = 9",
    )

    with pytest.raises(UsageError, match="id 7 stands twice; id 9 stands 3 times"):
        freeze(database_url)
    assert store.versions(OCTOBER) == []

    tables.execute("DELETE FROM archive")
    assert freeze(database_url).manifest.frozen.calls == 3


def test_what_postgresql_guarantees_is_not_read_again_and_all_else_is(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage], proven: list[str]
) -> None:
    plain = f"CREATE TABLE usage_counters (id bigint {{}}, {SHAPE})"

    def proves(*statements: str) -> bool:
        tables = make_source_tables(postgres_url)
        tables.execute("DROP TABLE usage_counters CASCADE", *statements, *rows(1, 2))
        proven.clear()
        freeze(postgres_url)
        tables.execute(
            "DROP TABLE usage_counters CASCADE",
            *(f"DROP TABLE IF EXISTS {name}" for name in ("one", "two", "billing_accounts", "billing_plans")),
        )
        return proven == ["id"]

    assert not proves(plain.format("PRIMARY KEY"))
    assert not proves(
        plain.format("NOT NULL"), "CREATE UNIQUE INDEX ON usage_counters (id) INCLUDE (user_id)"
    )
    assert not proves(
        *(each.format(key=", PRIMARY KEY (id)", **BY_ID) for each in PARTITIONED),
    )

    assert proves(plain.format("NOT NULL"), "CREATE INDEX ON usage_counters (id)")
    # Any number of nulls is unique.
    assert proves(plain.format(""), "CREATE UNIQUE INDEX ON usage_counters (id)")
    assert proves(plain.format("NOT NULL"), "CREATE UNIQUE INDEX ON usage_counters (id, created_at)")
    assert proves(plain.format("NOT NULL"), "CREATE UNIQUE INDEX ON usage_counters (id) WHERE id < 0")
    assert proves(plain.format("NOT NULL"), "CREATE UNIQUE INDEX ON usage_counters ((id + 1))")
    assert proves(
        plain.format("NOT NULL"),
        "CREATE UNIQUE INDEX unfinished ON usage_counters (id)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'unfinished'::regclass",
    )
    assert proves(plain.format("PRIMARY KEY"), "CREATE TABLE one () INHERITS (usage_counters)")
    assert proves(*(each.format(key="", **BY_TIME) for each in PARTITIONED))


def test_what_sqlite_guarantees_is_not_read_again_and_all_else_is(
    make_source_tables: Any, sqlite_url: str, freeze: Callable[..., FrozenUsage], proven: list[str]
) -> None:
    shape = SHAPE.replace("timestamptz", "text")
    tables = make_source_tables(sqlite_url)

    def proves(kind: str, *statements: str) -> bool:
        tables.execute(
            "DROP TABLE usage_counters", f"CREATE TABLE usage_counters ({kind.format(shape)})", *statements
        )
        tables.execute(*rows(1, 2))
        proven.clear()
        freeze(sqlite_url)
        return proven == ["id"]

    assert not proves("id INTEGER PRIMARY KEY, {}")
    assert not proves("ID integer PRIMARY KEY, {}")

    assert proves("id INTEGER, {}")
    assert proves("id INTEGER, {}, PRIMARY KEY (id, created_at)")
    assert proves("id INTEGER, {}", "CREATE UNIQUE INDEX part ON usage_counters (id) WHERE id < 0")
    assert proves("id INTEGER, {}", "CREATE UNIQUE INDEX more ON usage_counters (id, user_id)")
    assert proves("id INTEGER, {}", "CREATE UNIQUE INDEX made ON usage_counters (id + 1)")
    # Any number of nulls is unique.
    assert proves("id TEXT PRIMARY KEY, {}")


def test_rows_without_an_id_are_billed_and_counted(
    make_source_tables: Any, database_url: str, freeze: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(database_url, id="text")
    tables.execute(
        "DROP TABLE usage_counters",
        f"CREATE TABLE usage_counters (id text, {SHAPE.replace('timestamptz', 'text')})"
        if tables.is_sqlite
        else f"CREATE TABLE usage_counters (id text, {SHAPE})",
        *(
            f"INSERT INTO usage_counters VALUES ({each}, 'u', 5, '{MIDDLE}')"
            for each in ("NULL", "NULL", "'a'")
        ),
    )

    manifest = freeze(database_url).manifest

    assert (manifest.frozen.calls, manifest.without_id) == (3, 2)


def test_a_copy_that_comes_after_billing_is_not_late_usage(
    make_source_tables: Any, database_url: str, store: UsageStore, freeze: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(database_url)
    tables.calls([("user-1", 10, MIDDLE)], first_id=7)
    tables.calls([("user-1", 10, NOVEMBER.start)], first_id=9)
    tables.execute(
        "ALTER TABLE usage_counters RENAME TO calls",
        "CREATE TABLE archive AS SELECT * FROM calls WHERE id < 0",
        "CREATE VIEW usage_counters AS SELECT * FROM calls UNION ALL SELECT * FROM archive",
    )
    october = freeze(database_url)
    tables.execute("INSERT INTO archive SELECT * FROM calls WHERE id = 7")

    with pytest.raises(UsageError, match="usage_counters of 2026-10 id 7 stands twice"):
        freeze(database_url, NOVEMBER, late_for=[october])
    assert store.versions(NOVEMBER) == []


@pytest.mark.parametrize("column", ["request_id", "requestId"])
def test_a_request_that_stands_twice_is_refused_and_requests_without_a_name_are_not(
    make_source_tables: Any, database_url: str, freeze: Callable[..., FrozenUsage], column: str
) -> None:
    tables = make_source_tables(database_url)
    tables.execute(f'ALTER TABLE usage_counters ADD COLUMN "{column}" text')
    tables.calls([("user-1", 10, MIDDLE)] * 6)
    tables.execute(
        f"""UPDATE usage_counters SET "{column}" = CASE WHEN id < 3 THEN NULL WHEN id < 5 THEN '' """
        "ELSE 'r-' || id END"
    )
    assert freeze(database_url, column=column).manifest.frozen.calls == 6

    tables.execute(f"""UPDATE usage_counters SET "{column}" = 'r-5' WHERE id = 6""")

    with pytest.raises(UsageError, match=f"(?i){column} r-5 stands twice"):
        freeze(database_url, column=column)
    with pytest.raises(UsageError, match="has no column trace_id"):
        freeze(database_url, column="trace_id")


@pytest.fixture
def loose(make_source_tables: Any, sqlite_url: str) -> Any:
    """Make a table that takes any id any number of times."""
    shape = SHAPE.replace("timestamptz", "text")
    return tables_in(make_source_tables, sqlite_url, f"CREATE TABLE usage_counters (id INTEGER, {shape})")


@given(ids=st.lists(st.integers(1, 9), max_size=12))
def test_a_month_is_refused_exactly_where_an_id_stands_more_than_once(
    loose: Any, freeze: Callable[..., FrozenUsage], ids: list[int]
) -> None:
    loose.execute("DELETE FROM usage_counters", *rows(*ids))
    copies = sorted(each for each in set(ids) if ids.count(each) > 1)

    if copies:
        with pytest.raises(UsageError) as refused:
            freeze(loose.url)
        assert [each for each in range(1, 10) if f"id {each} stands" in refused.value.message] == copies
    else:
        assert freeze(loose.url).manifest.frozen.calls == len(ids)
