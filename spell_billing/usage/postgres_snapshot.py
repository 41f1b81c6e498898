"""One consistent, read-only view of a PostgreSQL database, on one connection or on several."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import adbc_driver_manager
import adbc_driver_postgresql
import pyarrow as pa
from adbc_driver_manager._reader import AdbcRecordBatchReader

from spell_billing.settings.databases import DatabaseUrl

T = TypeVar("T")

_CANCEL_SECONDS = 0.2
_TOO_MANY, _FREED_SECONDS = "too many connections for role", 1.0
_JOIN_SECONDS = 5.0
"""A further connection that takes longer waits behind a pooler, for this one to end."""

# Whatever server, role and URL prefer; only what the server knows (transaction_timeout came with PostgreSQL
# 17). What is read as text, as an item or the date of a rate card, reads the same under every setting. A
# policy must not hide rows from billing: without row security PostgreSQL refuses the query instead.
_SETTINGS = """
SELECT set_config(name, value, true)
FROM (VALUES ('timezone', 'UTC'), ('client_encoding', 'UTF8'), ('row_security', 'off'),
             ('datestyle', 'ISO'), ('intervalstyle', 'postgres'), ('bytea_output', 'hex'),
             ('extra_float_digits', '1'), ('statement_timeout', '0'), ('transaction_timeout', '0'),
             ('idle_in_transaction_session_timeout', '0')) AS wanted (name, value)
WHERE current_setting(name, true) IS NOT NULL
"""


@dataclass(frozen=True)
class Snapshot:
    """A connection inside a REPEATABLE READ, READ ONLY transaction; not by the DB-API, which loads pandas."""

    connection: adbc_driver_manager.AdbcConnection
    _closing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def table(self, query: str) -> pa.Table:
        """Read a small result whole."""
        with self.stream(query) as reader:
            return reader.read_all()

    @contextmanager
    def stream(self, query: str) -> Iterator[pa.RecordBatchReader]:
        """Stream a large result in batches of about 16 MB."""
        with adbc_driver_manager.AdbcStatement(self.connection) as statement:
            statement.set_sql_query(query)
            handle, _ = statement.execute_query()
            # The driver's own reader: Arrow's forgets the state of an error in mid-stream. It is one in name
            # only, and ends the process of a library that takes it for one.
            with closing(AdbcRecordBatchReader._import_from_c(handle.address)) as reader:  # noqa: SLF001
                yield pa.RecordBatchReader.from_batches(reader.schema, iter(reader))

    def execute(self, command: str) -> None:
        """Run a command that gives no rows."""
        with adbc_driver_manager.AdbcStatement(self.connection) as statement:
            statement.set_sql_query(command)
            statement.execute_update()

    def cancel(self) -> None:
        """End what another thread runs on this connection; without effect where nothing runs."""
        with self._closing, suppress(adbc_driver_manager.Error):
            self.connection.cancel()

    def close(self) -> None:
        """End the connection, and with it the transaction."""
        with self._closing:
            self.connection.close()

    def text(self, expression: str) -> str:
        """Return the value of an expression."""
        return str(self.table(f"SELECT ({expression})::text AS value")["value"][0].as_py())


def in_snapshots(
    url: DatabaseUrl,
    count: int,
    act: Callable[[list[Snapshot]], T],
    *,
    before: Callable[[Snapshot], None] = lambda _: None,
    database: adbc_driver_manager.AdbcDatabase | None = None,
) -> T:
    """Do something with `open_snapshots` in another thread, so that a person can interrupt it.

    The driver's calls let no signal through to their own thread.
    """
    opened: list[Snapshot] = []

    def work() -> T:
        with open_snapshots(url, count, before=before, database=database) as snapshots:
            opened.extend(snapshots)
            return act(snapshots)

    with ThreadPoolExecutor(1, thread_name_prefix="usage") as pool:
        working = pool.submit(work)
        try:
            return working.result()
        except BaseException:
            cancel(opened, [working])
            raise


def cancel(snapshots: Sequence[Snapshot], working: Sequence[Future[Any]]) -> None:
    """End what others run on these connections, and wait until they have ended.

    Repeatedly: a cancellation that comes before its statement is without effect.
    """
    while wait(working, timeout=0).not_done:
        for snapshot in snapshots:
            snapshot.cancel()
        wait(working, timeout=_CANCEL_SECONDS)


def describe_database(url: DatabaseUrl) -> adbc_driver_manager.AdbcDatabase:
    """Connect, learn the database's types, and disconnect: what connections are made from.

    It takes longer than a connection; any thread may use it, and it holds none open.
    """
    database: adbc_driver_manager.AdbcDatabase = adbc_driver_postgresql.connect(url.libpq_dsn)
    return database


@contextmanager
def open_snapshots(
    url: DatabaseUrl,
    count: int,
    *,
    before: Callable[[Snapshot], None] = lambda _: None,
    database: adbc_driver_manager.AdbcDatabase | None = None,
) -> Iterator[list[Snapshot]]:
    """Open one connection, or two whose every query sees the same moment.

    In UTC and UTF-8, without time limits and row security, whatever server and role prefer. All of it within
    transactions: behind a pooler the next one may be anybody's.

    The second cannot be had when it reaches another server than the first (several hosts, a balancing proxy),
    when the server or a pooler has no connection to spare, or does not let snapshots be exported.

    Args:
        url: The database.
        count: How many are wanted: 1 or 2.
        before: Called with the first connection before its transaction begins.
        database: From `describe_database`, to be kept open; None: one is opened and closed.
    """
    with ExitStack() as stack:
        if database is None:
            database = stack.enter_context(describe_database(url))
        # Left last: a connection that a pooler lets in too late gets its turn when the first one has ended.
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="usage-join"))
        first = Snapshot(_connected(database))
        stack.callback(first.close)
        before(first)
        _begin(first)
        second = _second(database, first, pool) if count > 1 else None
        if second is not None:
            stack.callback(second.close)
        # No COMMIT at the end: there is nothing to keep, and on a connection that was lost meanwhile this
        # version of the driver ends the process (https://github.com/apache/arrow-adbc/issues/3878).
        yield [first] if second is None else [first, second]


def _connected(database: adbc_driver_manager.AdbcDatabase) -> adbc_driver_manager.AdbcConnection:
    """Connect; where a role is let in no more, wait a moment for the place that was left just now.

    A server frees the place of the connection that learnt the types after that one has hung up.
    """
    until = time.monotonic() + _FREED_SECONDS
    while True:
        try:
            return adbc_driver_manager.AdbcConnection(database)
        except adbc_driver_manager.Error as error:
            # The driver gives no SQLSTATE of a connection that failed.
            if _TOO_MANY not in str(error) or time.monotonic() > until:
                raise
        time.sleep(_FREED_SECONDS / 20)


def _second(
    database: adbc_driver_manager.AdbcDatabase, first: Snapshot, pool: ThreadPoolExecutor
) -> Snapshot | None:
    """Open a connection that sees what the first one sees."""
    try:
        exported = first.text("pg_export_snapshot()")
    except adbc_driver_manager.Error:
        # Not allowed; and a failed transaction reads nothing more.
        first.connection.rollback()
        _set(first)
        return None
    joining = pool.submit(_joined, database, exported)
    if wait([joining], timeout=_JOIN_SECONDS).not_done:
        joining.add_done_callback(_close_late)
        return None
    second = joining.result()
    # Each reader proves its own rows against its own count: that both see the same is proven here.
    if second is None or second.text("pg_current_snapshot()") == first.text("pg_current_snapshot()"):
        return second
    second.close()
    return None


def _joined(database: adbc_driver_manager.AdbcDatabase, exported: str) -> Snapshot | None:
    with suppress(adbc_driver_manager.Error):
        snapshot = Snapshot(adbc_driver_manager.AdbcConnection(database))
        try:
            _begin(snapshot, exported)
        except BaseException:
            snapshot.close()
            raise
        return snapshot
    return None


def _close_late(joining: Future[Snapshot | None]) -> None:
    snapshot = joining.result()
    if snapshot is not None:
        snapshot.close()


def _begin(snapshot: Snapshot, exported: str | None = None) -> None:
    # Not as a statement: where a pooler hangs up instead of beginning, this version of the driver would end
    # the process.
    snapshot.connection.set_autocommit(False)
    _set(snapshot, exported)


def _set(snapshot: Snapshot, exported: str | None = None) -> None:
    snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    if exported is not None:
        snapshot.execute(f"SET TRANSACTION SNAPSHOT '{exported}'")
    snapshot.table(_SETTINGS)
