"""One user's usage and account from the platform's tables: what the freeze would see, for that user alone."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spell_billing.core.drafting import Account
from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUnreachableError, DatabaseUrl, parse_database_url
from spell_billing.usage import postgres, sqlite
from spell_billing.usage.aggregate import rows_of_user
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.frozen import DayUsage
from spell_billing.usage.postgres_sql import UsageSql
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.sqlite_sql import IS_USER, SqliteUsageSql, of_user
from spell_billing.usage.store import UsageStore
from spell_billing.usage.tables import Column

MARCH = Month(2025, 3)
NOON = datetime(2025, 3, 15, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def named(url: str) -> DatabaseUrl:
    return parse_database_url(url, setting="USAGE_DATABASE_URL")


def users_of(url: str) -> UsageSource:
    return open_usage_source(named(url))


def must_see_what_the_freeze_sees(url: str, folder: Path, *users: str) -> None:
    frozen = UsageStore(folder).freeze(open_usage_source(named(url)), MARCH)
    for user in users:
        assert users_of(url).user_month(user, MARCH).days == tuple(rows_of_user(frozen, user)), user


@pytest.mark.both_databases
@pytest.mark.parametrize("created_at", ["timestamptz", "timestamp"])
def test_a_month_is_what_the_freeze_sees_to_the_microsecond(
    database_url: str, make_source_tables: Callable[..., Any], tmp_path: Path, created_at: str
) -> None:
    tables = make_source_tables(database_url, created_at=created_at)
    first, end = MARCH.start, MARCH.end
    moments = [first - MICROSECOND, first, first + MICROSECOND, NOON, end - MICROSECOND, end]
    tables.calls([("user-0001", 1 << place, moment) for place, moment in enumerate(moments)])
    tables.calls([("user-0002", 1_000, NOON), ("user-0001", -4, NOON)])

    month = users_of(database_url).user_month("user-0001", MARCH)

    assert month.days == (
        DayUsage(date(2025, 3, 1), 2, Decimal(6)),
        DayUsage(date(2025, 3, 15), 2, Decimal(4)),
        DayUsage(date(2025, 3, 31), 1, Decimal(16)),
    )
    assert (month.calls, month.cost_cents) == (5, Decimal(26))
    must_see_what_the_freeze_sees(database_url, tmp_path / "store", "user-0001", "user-0002", "nobody")


def test_text_times_of_sqlite_are_read_by_the_rules_of_the_freeze(
    sqlite_url: str, make_source_tables: Callable[..., Any], tmp_path: Path
) -> None:
    tables = make_source_tables(sqlite_url)
    times = [
        *("2025-03-01", "2025-03-01T00:00", "2025-03-01 00:00:00.000000", "2025-02-28T23:59:59.9999999Z"),
        *("2025-03-31T23:59:59.9999999", "2025-04-01T01:59:59+02:00", "2025-02-28T20:00:00-0500"),
        *("2025-03-01T00:30:00+01", "2025-04-01"),
    ]
    tables.calls([("user-0001", 1 << place, time) for place, time in enumerate(times)])

    must_see_what_the_freeze_sees(sqlite_url, tmp_path / "store", "user-0001")


def test_fractions_of_a_cent_are_exact(postgres_url: str, make_source_tables: Callable[..., Any]) -> None:
    tables = make_source_tables(postgres_url, cost_cents="numeric")
    tables.calls([("user-0001", Decimal("0.1"), NOON)] * 3 + [("user-0001", Decimal("1e-18"), NOON)])
    tables.calls([("user-0001", Decimal(999_999_999_999_999_999), NOON)])

    cost = users_of(postgres_url).user_month("user-0001", MARCH).cost_cents

    assert cost == Decimal("999999999999999999.300000000000000001")


def test_rows_that_cannot_be_billed_are_left_out(
    postgres_url: str, make_source_tables: Callable[..., Any]
) -> None:
    tables = make_source_tables(postgres_url, cost_cents="numeric", not_null=False)
    tables.calls([("user-0001", 5, NOON), ("user-0001", None, NOON), ("user-0001", Decimal("NaN"), NOON)])

    assert users_of(postgres_url).user_month("user-0001", MARCH).calls == 1


@pytest.mark.parametrize("kind", ["text", "bigint", "uuid"])
def test_only_the_very_id_is_the_user(
    database_url: str, make_source_tables: Callable[..., Any], kind: str
) -> None:
    tables = make_source_tables(database_url, user_id=kind)
    own = {"text": "007", "bigint": "1893456789012345678", "uuid": "0b8e1f5c-3c9b-4f7e-9d7c-1c2b3a4d5e6f"}[
        kind
    ]
    tables.calls([(own, 5, NOON)])
    tables.accounts([{"user_id": own, "stripe_customer_id": "cus_1"}])
    users = users_of(database_url)
    others = [
        "7",
        f"0{own}",
        f" {own}",
        own.upper() if kind == "uuid" else f"{own}.0",
        "",
        "%",
        "a' OR '1'='1",
    ]
    others += ["\x00", "9" * 5_000, "-", "ü", f"{own}\n"]

    assert users.user_month(own, MARCH).calls == 1
    assert users.account(own) == Account("cus_1")
    assert [each for each in others if users.user_month(each, MARCH).calls] == []
    assert [each for each in others if users.account(each)] == []


@pytest.mark.both_databases
def test_an_account_comes_with_its_plan(database_url: str, make_source_tables: Callable[..., Any]) -> None:
    tables = make_source_tables(database_url)
    tables.plans(
        [
            {"plan_id": "pro", "name": "Pro", "included_cents": 5000},
            {"plan_id": "wrong", "name": "Not their plan", "included_cents": -1},
        ]
    )
    tables.accounts(
        [
            {"user_id": "user-1", "stripe_customer_id": " cus_1 ", "currency": "EUR", "plan_id": "pro"},
            {"user_id": "user-2", "stripe_customer_id": "", "plan_id": "gone"},
        ]
    )
    users = users_of(database_url)

    assert users.account("user-1") == Account("cus_1", "eur", "pro", "Pro", 5000)
    assert users.account("user-2") == Account(None, "usd", "gone", "", 0)
    assert users.account("user-3") is None


@pytest.mark.both_databases
def test_plans_and_optional_columns_may_be_missing(
    database_url: str, make_source_tables: Callable[..., Any]
) -> None:
    tables = make_source_tables(database_url, accounts=False, plans=False)
    tables.execute(
        "CREATE TABLE billing_accounts (user_id text PRIMARY KEY, stripe_customer_id text, plan_id text)"
    )
    tables.accounts([{"user_id": "user-1", "stripe_customer_id": "cus_1", "plan_id": "pro"}])

    assert users_of(database_url).account("user-1") == Account("cus_1", "usd", "pro")


def test_an_index_by_user_and_time_serves_sqlite(
    sqlite_url: str, make_source_tables: Callable[..., Any]
) -> None:
    make_source_tables(sqlite_url).execute("CREATE INDEX by_user ON usage_counters (user_id, created_at)")
    query = SqliteUsageSql({name: Column("text", nullable=False) for name in ("id", "user_id")}).rows(MARCH)

    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {query} AND {IS_USER}", of_user("7")).fetchall()
    connection.close()

    assert "USING INDEX by_user (user_id=? AND created_at>? AND created_at<?)" in plan[0][-1]


@pytest.mark.parametrize("kind", ["text", "bigint", "uuid"])
def test_an_index_by_user_and_time_serves_postgresql(
    postgres_url: str, make_source_tables: Callable[..., Any], kind: str
) -> None:
    tables = make_source_tables(postgres_url, user_id=kind)
    tables.execute("CREATE INDEX by_user ON usage_counters (user_id, created_at)")
    types = {"user_id": kind, "cost_cents": "int8", "created_at": "timestamptz"}
    sql = UsageSql({name: Column(type_, nullable=False) for name, type_ in types.items()})
    query = sql.user_days("0b8e1f5c-3c9b-4f7e-9d7c-1c2b3a4d5e6f" if kind == "uuid" else "7", MARCH)

    with psycopg.connect(postgres_url) as connection:
        connection.execute("SET enable_seqscan = off")
        rows = connection.execute(f"EXPLAIN {query}".encode()).fetchall()

    plan = "\n".join(row[0] for row in rows)
    assert "by_user" in plan
    assert "Index Cond: ((user_id = " in plan


def test_a_query_that_takes_too_long_is_ended(
    postgres_url: str, make_source_tables: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_source_tables(postgres_url)
    monkeypatch.setattr(postgres, "ONE_USER_SECONDS", 0.1)
    holder = tables.connect()
    try:
        holder.execute("LOCK TABLE usage_counters IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(UsageError, match=r"longer than .* seconds.*\(user_id, created_at\)"):
            users_of(postgres_url).user_month("user-0001", MARCH)
    finally:
        holder.close()


def test_a_query_that_takes_too_long_is_ended_in_sqlite(
    sqlite_url: str, make_source_tables: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_source_tables(sqlite_url).calls([("user-0001", 1, NOON)] * 5_000)
    monkeypatch.setattr(sqlite, "ONE_USER_SECONDS", -1.0)

    with pytest.raises(UsageError, match=r"longer than .* seconds"):
        users_of(sqlite_url).user_month("user-0001", MARCH)


def test_what_is_missing_is_named(database_url: str, make_source_tables: Callable[..., Any]) -> None:
    tables = make_source_tables(database_url)
    tables.execute("DROP TABLE usage_counters", "DROP TABLE billing_accounts")

    with pytest.raises(UsageError, match="usage_counters is missing"):
        users_of(database_url).user_month("user-0001", MARCH)
    with pytest.raises(UsageError, match="billing_accounts is missing"):
        users_of(database_url).account("user-0001")


def test_a_database_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachableError, match="USAGE_DATABASE_URL"):
        users_of(f"sqlite:///{tmp_path}/missing.db").user_month("user-0001", MARCH)
    with pytest.raises(DatabaseUnreachableError, match="USAGE_DATABASE_URL"):
        users_of("postgresql://me@127.0.0.1:1/none").user_month("user-0001", MARCH)


def test_offsets_of_the_driver_do_not_move_a_day(
    postgres_url: str, make_source_tables: Callable[..., Any]
) -> None:
    tables = make_source_tables(postgres_url)
    tables.execute("ALTER ROLE CURRENT_USER SET timezone = 'Asia/Tokyo'")
    try:
        east = timezone(timedelta(hours=9))
        tables.calls([("user-0001", 1, datetime(2025, 3, 16, 8, 59, tzinfo=east))])
        (day,) = users_of(postgres_url).user_month("user-0001", MARCH).days
    finally:
        tables.execute("ALTER ROLE CURRENT_USER RESET timezone")
    assert day.day == date(2025, 3, 15)
