"""Waiting for the database that usage is read from: nobody has to, and who breaks it off is named."""

import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spell_billing.core.errors import UsageError, UsageInterruptedError
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUnreachableError, parse_database_url
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.postgres_sql import UsageSql
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER, NOVEMBER = Month(2026, 10), Month(2026, 11)
MIDDLE = datetime(2026, 10, 15, 12, tzinfo=UTC)
SECONDS = 60.0


@pytest.fixture
def source(make_source_tables: Any, postgres_url: str) -> UsageSource:
    make_source_tables(postgres_url).calls([("user-1", 5, MIDDLE)])
    return open_usage_source(parse_database_url(postgres_url, setting="USAGE_DATABASE_URL"))


@pytest.fixture
def store(tmp_path: Path) -> UsageStore:
    return UsageStore(tmp_path / "usage")


def backend_that_waits(admin: "psycopg.Connection[Any]", event: str) -> int:
    """Wait until one of the database's other backends waits for something; give its process id."""
    while True:
        found = admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND %s IN (wait_event, wait_event_type)",
            [event],
        ).fetchone()
        if found:
            return int(found[0])


@pytest.mark.parametrize("table", ["usage_counters", "billing_accounts"])
def test_a_person_who_interrupts_does_not_wait_for_a_locked_table(
    source: UsageSource, store: UsageStore, postgres_url: str, table: str
) -> None:
    def read() -> None:
        store.freeze(source, OCTOBER) if table == "usage_counters" else source.accounts()

    before = set(threading.enumerate())
    ended = threading.Event()
    in_time: list[bool] = []
    with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url, autocommit=True) as admin:
        holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())

        def interrupt() -> None:
            backend_that_waits(admin, "Lock")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            in_time.append(ended.wait(SECONDS))
            holder.rollback()

        person = threading.Thread(target=interrupt)
        person.start()
        with pytest.raises(KeyboardInterrupt):
            read()
        ended.set()
        person.join(SECONDS)
    assert in_time == [True]
    assert set(threading.enumerate()) <= before
    assert store.versions(OCTOBER) == []


@pytest.mark.parametrize(
    ("broken", "becomes", "told"),
    [
        ("pg_sleep(600) IS NOT NULL", DatabaseUnreachableError, "terminating connection"),
        ("1 / (id - id) = 1", UsageError, "division by zero"),
    ],
)
def test_what_ends_the_search_for_late_usage_is_told_as_it_is(
    source: UsageSource,
    store: UsageStore,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    broken: str,
    becomes: type[Exception],
    told: str,
) -> None:
    october, users = store.freeze(source, OCTOBER), UsageSql.users
    monkeypatch.setattr(
        UsageSql,
        "users",
        lambda sql, month: users(sql, month).replace("WHERE", f"WHERE {broken} AND", 1),
    )

    def end() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 60000)", [backend_that_waits(admin, "PgSleep")])

    ending: Callable[[], None] = end if "sleep" in broken else lambda: None
    killer = threading.Thread(target=ending)
    killer.start()
    with pytest.raises(becomes, match=told) as raised:
        store.freeze(source, NOVEMBER, late_for=[october])
    killer.join(SECONDS)
    assert type(raised.value) is becomes
    assert "USAGE_DATABASE_URL" in str(raised.value)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("usage_counters", "ALTER TABLE usage_counters ALTER cost_cents TYPE numeric"),
        ("usage_counters", "TRUNCATE usage_counters"),
        (
            "usage_counters",
            (
                "CREATE TABLE other AS SELECT * FROM usage_counters; DROP TABLE usage_counters; "
                "ALTER TABLE other RENAME TO usage_counters"
            ),
        ),
        ("billing_accounts", "ALTER TABLE billing_accounts ALTER user_id TYPE varchar(40)"),
    ],
    ids=["altered", "truncated", "replaced", "accounts"],
)
def test_a_table_that_is_rewritten_while_it_is_waited_for_is_not_taken_as_empty(
    source: UsageSource, store: UsageStore, postgres_url: str, table: str, change: str
) -> None:
    with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url, autocommit=True) as admin:
        holder.execute(change.encode())

        def commit() -> None:
            backend_that_waits(admin, "Lock")
            holder.commit()

        writer = threading.Thread(target=commit)
        writer.start()
        with pytest.raises(UsageInterruptedError, match=f"{table} was rewritten"):
            store.freeze(source, OCTOBER) if table == "usage_counters" else source.accounts()
        writer.join(SECONDS)
    assert store.versions(OCTOBER) == []
    # The next reading begins after the change.
    if "TRUNCATE" not in change:
        assert store.freeze(source, OCTOBER).manifest.frozen.calls == 1
