"""What SQLite says of a table's columns: generated ones are read, and only a rowid is an integer for sure."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import parse_database_url
from spell_billing.usage.contract import SourceRules, UsageSource
from spell_billing.usage.frozen import Totals
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER = Month(2026, 10)
MIDDLE = "2026-10-15 12:00:00"
REST = "user_id TEXT, cost_cents INTEGER, created_at TEXT"


@pytest.fixture
def platform(sqlite_url: str) -> Callable[..., UsageSource]:
    """Give a function that runs statements in a new file and opens it as the source."""

    def make(*statements: str, calls: Any = (), rules: SourceRules = SourceRules()) -> UsageSource:  # noqa: B008
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
            for statement in statements:
                connection.execute(statement)
            for call in calls:
                connection.execute(
                    "INSERT INTO usage_counters (id, user_id, cost_cents, created_at) VALUES (?, ?, ?, ?)",
                    call,
                )
            connection.commit()
        return open_usage_source(parse_database_url(sqlite_url, setting="USAGE_DATABASE_URL"), rules)

    return make


def test_generated_columns_of_accounts_and_plans_are_read(platform: Callable[..., UsageSource]) -> None:
    source = platform(
        "CREATE TABLE billing_accounts (user_id TEXT, stripe_customer_id TEXT, settings TEXT, "
        "currency TEXT GENERATED ALWAYS AS (json_extract(settings, '$.currency')) VIRTUAL, "
        "plan_id TEXT GENERATED ALWAYS AS (json_extract(settings, '$.plan')) STORED)",
        'INSERT INTO billing_accounts VALUES (\'ann\', \'cus_ann\', \'{"currency": "eur", "plan": "pro"}\')',
        "CREATE TABLE billing_plans (plan_id TEXT, dollars INT, currency TEXT, "
        "included_cents INT AS (dollars * 100))",
        "INSERT INTO billing_plans VALUES ('pro', 3, 'eur')",
    )

    (account,) = source.accounts().to_pylist()

    assert (account["currency"], account["plan_id"], account["included_cents"]) == ("eur", "pro", 300)


def test_a_generated_cost_is_billed_and_a_generated_key_proves_itself(
    platform: Callable[..., UsageSource], tmp_path: Path
) -> None:
    source = platform(
        "CREATE TABLE usage_counters (id INTEGER PRIMARY KEY, user_id TEXT, dollars REAL, created_at TEXT, "
        "cost_cents INTEGER GENERATED ALWAYS AS (CAST(round(dollars * 100) AS INTEGER)) STORED, "
        "request_id TEXT AS ('request ' || (id % 2)))",
        f"INSERT INTO usage_counters (user_id, dollars, created_at) VALUES ('ann', 5.0, '{MIDDLE}')",
        f"INSERT INTO usage_counters (id, user_id, dollars, created_at) VALUES (3, 'ann', 5.0, '{MIDDLE}')",
        rules=SourceRules(dedupe_column="request_id"),
    )

    with pytest.raises(UsageError, match="request_id request 1 stands twice"):
        UsageStore(tmp_path / "usage").freeze(source, OCTOBER)
    frozen = UsageStore(tmp_path / "usage").freeze(platform(), OCTOBER)
    assert frozen.manifest.frozen == Totals(2, Decimal(1000))


@pytest.mark.parametrize(
    ("table", "has_nulls"),
    [
        (f"CREATE TABLE usage_counters (id INTEGER PRIMARY KEY, {REST}) WITHOUT ROWID", False),
        (f"CREATE TABLE usage_counters (id INTEGER, {REST}, PRIMARY KEY (id)) WITHOUT ROWID", False),
        (f"CREATE TABLE usage_counters (id INTEGER PRIMARY KEY DESC, {REST})", True),
        (f'CREATE TABLE usage_counters ("id" [INTEGER] PRIMARY /* */ KEY Desc, {REST})', True),
    ],
)
def test_a_key_that_is_no_rowid_may_hold_text_and_null(
    platform: Callable[..., UsageSource], tmp_path: Path, table: str, *, has_nulls: bool
) -> None:
    calls = [(1, "ann", 5, MIDDLE), ("abc", "bob", 7, MIDDLE), (3, "bob", 7, MIDDLE)]
    nulls = [(None, "ann", 11, MIDDLE)] * 2 if has_nulls else []

    frozen = UsageStore(tmp_path / "usage").freeze(platform(table, calls=[*calls, *nulls]), OCTOBER)

    assert frozen.manifest.frozen == Totals(len(calls + nulls), Decimal(19 + 11 * len(nulls)))
    assert frozen.manifest.without_id == len(nulls)


@pytest.mark.parametrize(
    "key",
    [
        f"id INTEGER PRIMARY KEY, {REST}",
        f"id integer primary key autoincrement, {REST}",
        f"id INTEGER PRIMARY KEY UNIQUE, {REST}",
        f"id INTEGER, {REST}, PRIMARY KEY (id DESC)",
    ],
)
def test_a_rowid_is_frozen_as_a_number_and_nothing_is_read_to_prove_it(
    platform: Callable[..., UsageSource], tmp_path: Path, key: str
) -> None:
    source = platform(f"CREATE TABLE usage_counters ({key})", calls=[(7, "ann", 5, MIDDLE)])

    frozen = UsageStore(tmp_path / "usage").freeze(source, OCTOBER)

    with sqlite3.connect(":memory:") as scratch:
        # What is a rowid takes no text.
        scratch.execute(f"CREATE TABLE usage_counters ({key})")
        with pytest.raises(sqlite3.IntegrityError, match="datatype mismatch"):
            scratch.execute("INSERT INTO usage_counters (id) VALUES ('abc')")
    assert str(pq.read_schema(frozen.paths[0]).field("id").type) == "int64"
