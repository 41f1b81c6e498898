"""The connection that reads a month: what ends it, and what is said of it."""

import errno
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from adbc_driver_manager import AdbcConnection

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.databases import DatabaseUnreachableError, parse_database_url
from spell_billing.usage import postgres_rows
from spell_billing.usage.postgres_sql import CostForm, UsageSql
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER = Month(2026, 10)
SECONDS = 60.0
"""Far longer than anything here takes; who is not done by then hangs."""


@pytest.fixture
def freeze(make_source_tables: Any, postgres_url: str, tmp_path: Path) -> Callable[[], Any]:
    """Give a function that freezes October of a million calls, several batches of rows."""
    make_source_tables(postgres_url).execute(
        "INSERT INTO usage_counters (user_id, cost_cents, created_at) "
        "SELECT 'user-' || number % 7, 1, timestamptz '2026-10-01 00:00+00' + number * interval '2.5 s' "
        "FROM generate_series(1, 1000000) AS number"
    )
    source = open_usage_source(parse_database_url(postgres_url, setting="USAGE_DATABASE_URL"))
    store = UsageStore(tmp_path / "usage")
    return lambda: store.freeze(source, OCTOBER)


def outcome_in_time(act: Callable[[], Any]) -> BaseException | None:
    """Run something that may hang; give what it raised."""
    raised: list[BaseException | None] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=SECONDS)
    assert not thread.is_alive(), "it hangs"
    return raised[0]


def test_a_person_who_interrupts_does_not_wait_for_the_rest_of_the_month(
    freeze: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, cancel = postgres_rows._shape, AdbcConnection.cancel
    cancelled = threading.Event()
    rows: list[int] = []

    class Connection(AdbcConnection):
        def cancel(self) -> None:
            cancel(self)
            cancelled.set()

    def shape(batch: pa.RecordBatch, *arguments: Any) -> Any:
        if not rows:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            assert cancelled.wait(timeout=SECONDS)
        rows.append(batch.num_rows)
        return original(batch, *arguments)

    monkeypatch.setattr(postgres_rows, "_shape", shape)
    monkeypatch.setattr("adbc_driver_manager.AdbcConnection", Connection)

    with pytest.raises(KeyboardInterrupt):
        freeze()
    assert 0 < sum(rows) < 1_000_000


def test_a_month_that_cannot_be_counted_is_told_in_the_server_s_words(
    freeze: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UsageSql, "totals", lambda *_, **__: "SELECT 1 / 0")

    error = outcome_in_time(freeze)

    assert isinstance(error, UsageError)
    assert "division by zero" in str(error)


def test_a_connection_that_ends_while_rows_are_read_is_named_and_may_be_tried_again(
    freeze: Callable[[], Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = UsageSql.rows

    def stalled_rows(sql: UsageSql, month: Month, form: CostForm) -> str:
        stall = f"(id % 200000 <> 0 OR pg_sleep({10 * SECONDS}) IS NOT NULL)"
        return f"{original(sql, month, form)} AND {stall}"

    def end_one() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            reading: list[tuple[int]] = []
            while not reading:
                reading = admin.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
                    "AND query LIKE 'COPY%' AND wait_event = 'PgSleep'"
                ).fetchall()
            admin.execute("SELECT pg_terminate_backend(%s, 60000)", reading[0])

    monkeypatch.setattr(UsageSql, "rows", stalled_rows)
    killer = threading.Thread(target=end_one, daemon=True)
    killer.start()

    error = outcome_in_time(freeze)

    killer.join(timeout=SECONDS)
    assert isinstance(error, DatabaseUnreachableError), repr(error)
    assert error.transient
    assert "terminating connection" in str(error) or "closed the connection" in str(error)


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (OSError("[libpq] PQgetCopyData() failed: server closed the connection"), DatabaseUnreachableError),
        (
            pa.ArrowInvalid("[libpq] FATAL:  terminating connection by command"),
            DatabaseUnreachableError,
        ),
        (pa.ArrowInvalid("[libpq] ERROR:  canceling statement by command"), UsageError),
        (OSError(errno.ENOSPC, "No space left on device"), UsageError),
        (OSError(errno.EIO, "Input/output error"), OSError),
        (ValueError("a batch that cannot be shaped"), ValueError),
    ],
)
def test_what_cannot_be_written_stops_the_reader_and_is_no_error_of_the_line(
    freeze: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, error: Exception, becomes: type[Exception]
) -> None:
    def broken(*_arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(postgres_rows, "_shape", broken)

    assert type(outcome_in_time(freeze)) is becomes


@pytest.mark.parametrize(
    "timeout", ["statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout"]
)
def test_a_time_limit_of_the_database_does_not_end_a_freeze(
    freeze: Callable[[], Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch, timeout: str
) -> None:
    original = UsageSql.totals
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        ((name,),) = admin.execute("SELECT quote_ident(current_database())").fetchall()
        admin.execute(f"ALTER DATABASE {name} SET {timeout} = '300ms'")

    def slow_totals(sql: UsageSql, month: Month, *, every_row: bool) -> str:
        query = original(sql, month, every_row=every_row)
        return query.replace("WHERE", "WHERE (SELECT pg_sleep(0.4)) IS NOT NULL AND", 1)

    monkeypatch.setattr(UsageSql, "totals", slow_totals)

    assert freeze().manifest.frozen.calls == 1_000_000
