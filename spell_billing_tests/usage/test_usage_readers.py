"""Several connections that read one month: what one of them meets, and what becomes of the others."""

import errno
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUnreachableError, parse_database_url
from spell_billing.usage import postgres_rows, postgres_snapshot
from spell_billing.usage.postgres_parts import CostForm, Stretch
from spell_billing.usage.postgres_snapshot import Snapshot, open_snapshots
from spell_billing.usage.postgres_sql import UsageSql
from spell_billing.usage.row_writer import RowWriter
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER = Month(2026, 10)
SECONDS = 60.0
"""Far longer than anything here takes; who is not done by then hangs."""


@pytest.fixture
def freeze(make_source_tables: Any, postgres_url: str, tmp_path: Path) -> Callable[[], Any]:
    """Give a function that freezes October of a million calls, some batches of each half."""
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


@pytest.mark.parametrize("number", [0, 1])
def test_a_reader_that_fails_stops_the_other_and_its_error_is_told(
    freeze: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    original = Snapshot.stream
    half = Stretch(OCTOBER.start, OCTOBER.start + (OCTOBER.end - OCTOBER.start) / 2)
    mark = f"'{(half.start, half.end)[number]}' AND"

    def breaking(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield next(batches)
        raise ValueError("the second batch is broken")

    @contextmanager
    def stream(self: Snapshot, query: str) -> Iterator[Any]:
        with original(self, query) as batches:
            broken = "count(" not in query and "LIMIT" not in query and mark in query
            yield breaking(iter(batches)) if broken else batches

    monkeypatch.setattr(Snapshot, "stream", stream)

    error = outcome_in_time(freeze)

    assert isinstance(error, ValueError)
    assert str(error) == "the second batch is broken"


def test_a_reader_that_cannot_start_stops_the_one_that_did(
    freeze: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "row-reader_1":
            raise RuntimeError("can't start new thread")
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", start)

    error = outcome_in_time(freeze)

    assert isinstance(error, RuntimeError)
    assert "can't start" in str(error)


def test_a_person_who_interrupts_does_not_wait_for_the_rest_of_the_month(
    freeze: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, cancel = postgres_rows._shape, RowWriter.cancel
    cancelled = threading.Event()
    in_time: list[bool] = []

    def shape(*arguments: Any) -> Any:
        if not in_time:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            in_time.append(cancelled.wait(timeout=SECONDS))
        return original(*arguments)

    def cancelling(writer: RowWriter) -> None:
        cancel(writer)
        cancelled.set()

    monkeypatch.setattr(postgres_rows, "_shape", shape)
    monkeypatch.setattr(RowWriter, "cancel", cancelling)

    with pytest.raises(KeyboardInterrupt):
        freeze()
    assert in_time == [True]


@pytest.mark.parametrize("number", [0, 1])
def test_a_half_that_cannot_be_counted_ends_the_count_of_the_other(
    freeze: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def totals(_: UsageSql, stretch: Stretch, *, every_row: bool) -> str:  # noqa: ARG001 - as the original
        broken = (stretch.start == OCTOBER.start) == (number == 0)
        return "SELECT 1 / 0" if broken else f"SELECT pg_sleep({10 * SECONDS})"

    monkeypatch.setattr(UsageSql, "totals", totals)

    error = outcome_in_time(freeze)

    assert isinstance(error, UsageError)
    assert "division by zero" in str(error)


@pytest.mark.parametrize("number", [0, 1])
def test_a_connection_that_ends_while_rows_are_read_is_named_and_may_be_tried_again(
    freeze: Callable[[], Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    original = UsageSql.rows

    def stalled_rows(sql: UsageSql, stretch: Stretch, form: CostForm, *_: object) -> str:
        # Each half has such a row.
        stall = f"(id % 200000 <> 0 OR pg_sleep({10 * SECONDS}) IS NOT NULL)"
        return f"{original(sql, stretch, form)} AND {stall}"

    def end_one() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            reading: list[tuple[int]] = []
            while len(reading) < 2:
                reading = admin.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
                    "AND query LIKE 'COPY%' AND wait_event = 'PgSleep' ORDER BY backend_start"
                ).fetchall()
            admin.execute("SELECT pg_terminate_backend(%s, 60000)", reading[number])

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
def test_what_cannot_be_written_stops_all_readers_and_is_no_error_of_the_line(
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

    def slow_totals(sql: UsageSql, stretch: Stretch, *, every_row: bool) -> str:
        query = original(sql, stretch, every_row=every_row)
        return query.replace("WHERE", "WHERE (SELECT pg_sleep(0.4)) IS NOT NULL AND", 1)

    monkeypatch.setattr(UsageSql, "totals", slow_totals)

    assert freeze().manifest.frozen.calls == 1_000_000


def test_a_connection_that_sees_another_moment_does_not_read(
    freeze: Callable[[], Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = postgres_snapshot._begin
    url = parse_database_url(postgres_url, setting="USAGE_DATABASE_URL")

    def begin(snapshot: Snapshot, exported: str | None = None) -> None:
        if exported is not None:
            with psycopg.connect(postgres_url) as writer:
                writer.execute("UPDATE usage_counters SET cost_cents = 2 WHERE id = 1")
        original(snapshot)

    with open_snapshots(url, 2) as shared:
        assert len(shared) == 2
    monkeypatch.setattr(postgres_snapshot, "_begin", begin)
    with open_snapshots(url, 2) as alone:
        assert len(alone) == 1
    assert freeze().manifest.frozen.calls == 1_000_000
