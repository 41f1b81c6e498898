"""The usage source behind PgBouncer, and on servers that allow less: it works, or one sentence says why."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.month import Month
from spell_billing.settings.databases import parse_database_url
from spell_billing.usage import postgres_snapshot
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore
from spell_billing_tests.environments.servers import pooler

OCTOBER = Month(2026, 10)
MIDDLE = datetime(2026, 10, 15, 12, tzinfo=UTC)
SETTINGS = ("timezone", "row_security", "statement_timeout", "idle_in_transaction_session_timeout")


@pytest.fixture
def store(tmp_path: Path) -> UsageStore:
    return UsageStore(tmp_path / "usage")


@pytest.fixture
def platform_url(make_source_tables: Any, postgres_url: str) -> str:
    """Give the URL of a database with two calls and an account."""
    tables = make_source_tables(postgres_url)
    tables.calls([("user-1", 3, OCTOBER.start), ("user-1", 4, MIDDLE.replace(day=30))])
    tables.accounts([{"user_id": "user-1", "stripe_customer_id": "cus_1"}])
    return postgres_url


def source_of(url: str) -> UsageSource:
    return open_usage_source(parse_database_url(url, setting="USAGE_DATABASE_URL"))


def settings_of(url: str) -> dict[str, str]:
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as platform:
        return {name: str((platform.execute(f"SHOW {name}").fetchone() or [""])[0]) for name in SETTINGS}


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many connections each freeze reads with."""
    counts: list[int] = []
    original = postgres_snapshot.in_snapshots

    def counting(url: Any, count: int, act: Callable[[list[Any]], Any], **options: Any) -> Any:
        def counted(snapshots: list[Any]) -> Any:
            counts.append(len(snapshots))
            return act(snapshots)

        return original(url, count, counted, **options)

    monkeypatch.setattr("spell_billing.usage.postgres.in_snapshots", counting)
    return counts


def test_usage_is_read_through_a_pooler_and_leaves_no_setting_in_its_sessions(
    platform_url: str, store: UsageStore, readers: list[int]
) -> None:
    with pooler(platform_url, default_pool_size="2") as url:
        before = settings_of(url)

        manifest = store.freeze(source_of(url), OCTOBER).manifest
        accounts = source_of(url).accounts()
        used, account = source_of(url).user_month("user-1", OCTOBER), source_of(url).account("user-1")

        # Each of the pool's sessions was in use, and is the next one's.
        assert [settings_of(url) for _ in range(4)] == [before] * 4
    assert (manifest.frozen.calls, accounts.num_rows, readers) == (2, 1, [2, 1, 1, 1])
    assert sum(day.calls for day in used.days) == 2
    assert account is not None


def test_a_pooler_with_one_connection_makes_do_with_one_reader(
    platform_url: str, store: UsageStore, readers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_snapshot, "_JOIN_SECONDS", 0.2)
    with pooler(platform_url, default_pool_size="1", query_wait_timeout="0") as url:
        assert store.freeze(source_of(url), OCTOBER).manifest.frozen.calls == 2
    assert readers == [1]


@pytest.mark.parametrize(
    ("settings", "option", "words"),
    [
        ({"mode": "statement"}, "", "transaction blocks not allowed in statement pooling mode"),
        ({"mode": "transaction"}, "&options=-c%20search_path%3Dplatform", "unsupported startup parameter"),
        ({"server_reset_query_always": "1"}, "", "prepared statement does not exist"),
    ],
)
def test_what_a_pooler_does_not_allow_is_refused_in_one_sentence(
    platform_url: str, store: UsageStore, settings: dict[str, str], option: str, words: str
) -> None:
    with (
        pooler(platform_url, **settings) as url,
        pytest.raises(SpellBillingError, match=words) as refused,
    ):
        store.freeze(source_of(url + option), OCTOBER)
    assert refused.value.remedy.startswith(
        "Reach the server itself, or a pooler in session or transaction mode"
    )
    assert store.versions(OCTOBER) == []


@pytest.fixture
def without_export(platform_url: str) -> Iterator[str]:
    """Give the URL of a role that may not export snapshots."""
    role = str(psycopg.conninfo.conninfo_to_dict(platform_url)["dbname"])
    with psycopg.connect(platform_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN")
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        admin.execute("REVOKE EXECUTE ON FUNCTION pg_export_snapshot() FROM public")
        yield platform_url.replace("postgres:@", f"{role}@")
        admin.execute(f"DROP OWNED BY {role}")
        admin.execute(f"DROP ROLE {role}")


def test_a_server_that_exports_no_snapshot_is_read_by_one_connection(
    without_export: str, store: UsageStore, readers: list[int]
) -> None:
    assert store.freeze(source_of(without_export), OCTOBER).manifest.frozen.calls == 2
    assert readers == [1]


def test_sessions_that_may_not_be_idle_for_long_are_no_obstacle(platform_url: str, store: UsageStore) -> None:
    impatient = (
        "idle_session_timeout=1s",
        "idle_in_transaction_session_timeout=100ms",
        "statement_timeout=1s",
    )
    options = "%20".join(f"-c%20{each.replace('=', '%3D')}" for each in impatient)

    def idle_for_long(_rows: int, _all: int) -> None:
        with psycopg.connect(platform_url, autocommit=True) as admin:
            while not admin.execute(
                "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' "
                "AND state_change < clock_timestamp() - interval '300 ms' AND datname = current_database()"
            ).fetchone():
                pass

    source = source_of(f"{platform_url}&options={options}")
    assert store.freeze(source, OCTOBER, on_progress=idle_for_long).manifest.frozen.calls == 2
