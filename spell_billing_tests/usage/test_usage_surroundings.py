"""What a server, a role, a file or a URL may have: it changes no bill, or is refused."""

import socket
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUnreachableError, parse_database_url
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER, NOVEMBER = Month(2026, 10), Month(2026, 11)
MIDDLE = datetime(2026, 10, 15, 12, tzinfo=UTC)
NAME = "jos\u00e9"


@pytest.fixture
def store(tmp_path: Path) -> UsageStore:
    return UsageStore(tmp_path / "usage")


def source_of(url: str) -> UsageSource:
    return open_usage_source(parse_database_url(url, setting="USAGE_DATABASE_URL"))


def users_of(frozen: FrozenUsage) -> list[str]:
    users: list[str] = pq.read_table(aggregate(frozen).path)["user_id"].to_pylist()
    return users


@pytest.mark.parametrize("option", ["", "&client_encoding=LATIN1"])
def test_users_are_read_as_they_are_written_whatever_the_encoding(
    make_source_tables: Any, database_in: Callable[[str], str], store: UsageStore, option: str
) -> None:
    url = database_in("LATIN1")
    tables = make_source_tables(url)
    tables.calls([(NAME, 5, MIDDLE)])
    tables.accounts([{"user_id": NAME, "stripe_customer_id": "cus_1"}])
    source = source_of(url + option)

    assert users_of(store.freeze(source, OCTOBER)) == [NAME]
    assert source.accounts()["user_id"].to_pylist() == [NAME]


def test_bytes_that_are_no_text_stop_the_month_in_postgresql(
    make_source_tables: Any, database_in: Callable[[str], str], store: UsageStore
) -> None:
    url = database_in("SQL_ASCII")
    make_source_tables(url).execute(
        f"INSERT INTO usage_counters (user_id, cost_cents, created_at) VALUES (E'jos\\xe9', 1, '{MIDDLE}')"
    )

    with pytest.raises(UsageError, match=r'invalid byte sequence for encoding "UTF8": 0xe9'):
        store.freeze(source_of(url), OCTOBER)
    assert store.versions(OCTOBER) == []


def test_bytes_that_are_no_text_stop_the_month_in_sqlite(
    make_source_tables: Any, sqlite_url: str, store: UsageStore
) -> None:
    tables = make_source_tables(sqlite_url)
    tables.calls([("user-1", 1, MIDDLE)], first_id=7)
    tables.execute(
        "INSERT INTO usage_counters (id, user_id, cost_cents, created_at) "
        "SELECT 8, CAST(x'6a6f73e9' AS TEXT), 1, created_at FROM usage_counters"
    )

    with pytest.raises(UsageError, match=r"row with id 8 of usage_counters is not text: .* b'jos\\xe9'"):
        store.freeze(source_of(sqlite_url), OCTOBER)
    assert store.versions(OCTOBER) == []


def test_rows_that_a_policy_hides_are_not_left_out_in_silence(
    make_source_tables: Any, postgres_url: str, store: UsageStore
) -> None:
    tables = make_source_tables(postgres_url)
    tables.calls([("shown", 1, MIDDLE), ("hidden", 2, MIDDLE)])
    role = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    tables.execute(
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT ON usage_counters, billing_accounts, billing_plans TO {role}",
        "ALTER TABLE usage_counters ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY shown ON usage_counters FOR SELECT USING (user_id = 'shown')",
    )
    source = source_of(postgres_url.replace("postgres:@", f"{role}@"))
    try:
        with pytest.raises(UsageError, match="row-level security") as refused:
            store.freeze(source, OCTOBER)
        tables.execute(f"ALTER ROLE {role} BYPASSRLS")
        frozen = store.freeze(source, OCTOBER)
    finally:
        tables.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert "BYPASSRLS" in str(refused.value.remedy)
    assert frozen.manifest.frozen.cost_cents == 3


def test_a_table_of_plans_that_the_role_cannot_see_is_not_taken_as_missing(
    make_source_tables: Any, postgres_url: str, store: UsageStore
) -> None:
    tables = make_source_tables(postgres_url)
    tables.calls([("user-1", 1, MIDDLE)])
    role = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    tables.execute(
        f"CREATE ROLE {role} LOGIN",
        "CREATE SCHEMA pricing",
        "ALTER TABLE billing_plans SET SCHEMA pricing",
        f"GRANT SELECT ON usage_counters, billing_accounts, pricing.billing_plans TO {role}",
        f"ALTER ROLE {role} SET search_path = public, pricing",
    )
    source = source_of(postgres_url.replace("postgres:@", f"{role}@"))
    try:
        with pytest.raises(UsageError, match="billing_plans is in the schema pricing, which") as refused:
            store.freeze(source, OCTOBER)
        tables.execute(
            "CREATE TABLE billing_plans (plan_id text)", f"GRANT SELECT ON billing_plans TO {role}"
        )
        tables.execute(f"ALTER ROLE {role} SET search_path = pricing, public")
        with pytest.raises(
            UsageError, match=r"schema pricing, .*; public\.billing_plans would be read in its"
        ):
            store.freeze(source, OCTOBER)
        tables.execute(refused.value.remedy.split("`")[1])
        assert store.freeze(source, OCTOBER).manifest.frozen.calls == 1
        # What no search path names is no table of billing's.
        tables.execute(f"REVOKE USAGE ON SCHEMA pricing FROM {role}", f"ALTER ROLE {role} RESET search_path")
        assert store.freeze(source, OCTOBER).manifest.frozen.calls == 1
    finally:
        tables.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_users_that_sql_takes_for_equal_are_not_late_for_each_other(
    make_source_tables: Any, postgres_url: str, store: UsageStore
) -> None:
    tables = make_source_tables(postgres_url, user_id="numeric")
    tables.calls([(Decimal("1.0"), 100, MIDDLE), (Decimal("1.00"), 70, MIDDLE)])
    source = source_of(postgres_url)
    october = store.freeze(source, OCTOBER)

    assert users_of(october) == ["1.0", "1.00"]
    assert store.freeze(source, NOVEMBER, late_for=[october]).manifest.late is None


def test_a_server_that_never_answers_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        # PostgreSQL's client waits at least two seconds.
        source = source_of(f"postgresql://u:geheim@127.0.0.1:{port}/spell?connect_timeout=2")
        with pytest.raises(DatabaseUnreachableError, match="timeout") as raised:
            source.accounts()
    assert "geheim" not in str(raised.value)
