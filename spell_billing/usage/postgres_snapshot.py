"""One consistent, read-only view of a PostgreSQL database."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import adbc_driver_manager
import adbc_driver_postgresql
import pyarrow as pa
from adbc_driver_manager._reader import AdbcRecordBatchReader

from spell_billing.databases import DatabaseUrl

T = TypeVar("T")

_CANCEL_SECONDS = 0.2

# Whatever server, role and URL prefer; only what the server knows (transaction_timeout came with PostgreSQL
# 17). A policy must not hide rows from billing: without row security PostgreSQL refuses the query instead.
_SETTINGS = """
SELECT set_config(name, value, true)
FROM (VALUES ('timezone', 'UTC'), ('client_encoding', 'UTF8'), ('row_security', 'off'),
             ('statement_timeout', '{longest_ms}'), ('transaction_timeout', '0'),
             ('idle_in_transaction_session_timeout', '0')) AS wanted (name, value)
WHERE current_setting(name, true) IS NOT NULL
"""


@dataclass(frozen=True)
class Snapshot:
    """A connection inside a REPEATABLE READ, READ ONLY transaction.

    Uses the driver's low-level interface: its DB-API module loads pandas, which takes longer than a freeze
    of a small month.
    """

    connection: adbc_driver_manager.AdbcConnection

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Read a small result as dictionaries."""
        found: list[dict[str, Any]] = self.table(query).to_pylist()
        return found

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


def in_snapshot(
    url: DatabaseUrl,
    act: Callable[[Snapshot], T],
    *,
    before: Callable[[Snapshot], None] = lambda _: None,
    longest_query: timedelta | None = None,
) -> T:
    """Do something in a snapshot: every query sees the same moment.

    In UTC and UTF-8, without other time limits and row security, whatever server and role prefer. All of it
    within a transaction: behind a pooler the next one may be anybody's.

    The driver's calls give no signal through to their thread, so they run in another one: a person who
    interrupts need not wait for the database.

    Args:
        url: The database.
        act: What to do.
        before: Called with the connection before its transaction begins.
        longest_query: The server ends a query that takes longer.
    """
    opened: list[adbc_driver_manager.AdbcConnection] = []

    def work() -> T:
        opened.append(adbc_driver_manager.AdbcConnection(database))
        snapshot = Snapshot(*opened)
        before(snapshot)
        _begin(snapshot, longest_query or timedelta(0))
        return act(snapshot)

    with (
        adbc_driver_postgresql.connect(url.libpq_uri) as database,
        ThreadPoolExecutor(1, thread_name_prefix="usage") as pool,
    ):
        working = pool.submit(work)
        try:
            return working.result()
        except BaseException:
            # Again and again: what comes before its statement is without effect.
            while wait([working], timeout=0).not_done:
                for connection in opened:
                    with suppress(adbc_driver_manager.Error):
                        connection.cancel()
                wait([working], timeout=_CANCEL_SECONDS)
            raise
        finally:
            # No COMMIT: there is nothing to keep, and on a connection that was lost meanwhile this version of
            # the driver ends the process (https://github.com/apache/arrow-adbc/issues/3878).
            for connection in opened:
                connection.close()


def _begin(snapshot: Snapshot, longest_query: timedelta) -> None:
    # Not as a statement: where a pooler hangs up instead of beginning, this version of the driver would end
    # the process.
    snapshot.connection.set_autocommit(False)
    with adbc_driver_manager.AdbcStatement(snapshot.connection) as statement:
        statement.set_sql_query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        statement.execute_update()
    snapshot.table(_SETTINGS.format(longest_ms=int(longest_query.total_seconds() * 1000)))
