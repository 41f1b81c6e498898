"""One consistent, read-only view of a SQLite file, by Python's own driver.

Two copies of the SQLite library in one process break each other's locks (sqlite.org, "How To Corrupt An
SQLite Database File", 2.2.1), and usage may lie in the ledger's file: so no other driver may open it.
"""

import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from spell_billing.core.errors import UsageError
from spell_billing.databases import SQLITE_BUSY_TIMEOUT_SECONDS, DatabaseUrl, database_errors, unreachable
from spell_billing.usage.tables import took_too_long

_BATCH_ROWS = 50_000
_STEPS_BETWEEN_LOOKS = 10_000
_ROWS_AT_ONCE = 500
"""So few that Python does not look for garbage among them, which would double the time."""

Values = Sequence[Any] | Mapping[str, Any]
"""The parameters of a query, by place or by name."""


@dataclass(frozen=True)
class SqliteSnapshot:
    """A connection in a read transaction. Text comes as bytes, because SQLite keeps any bytes as text."""

    connection: sqlite3.Connection

    def rows(self, query: str, values: Values = ()) -> list[dict[str, Any]]:
        """Read a small result as dictionaries."""
        cursor = self.connection.execute(query, values)
        names = [name for name, *_ in cursor.description]
        return [
            {
                name: value.decode() if isinstance(value, bytes) else value
                for name, value in zip(names, row, strict=True)
            }
            for row in cursor
        ]

    def stream(self, query: str, values: Values = ()) -> Iterator[pa.RecordBatch]:
        """Stream a large result, whose columns hold nothing but text or nothing but integers."""
        cursor = self.connection.execute(query, values)
        names = [name for name, *_ in cursor.description]
        while True:
            columns: list[list[Any]] = [[] for _ in names]
            while len(columns[0]) < _BATCH_ROWS and (rows := cursor.fetchmany(_ROWS_AT_ONCE)):
                for column, some in zip(columns, zip(*rows, strict=True), strict=True):
                    column.extend(some)
            if not columns[0]:
                return
            yield pa.RecordBatch.from_arrays([_column(each) for each in columns], names=names)


@contextmanager
def open_sqlite_snapshot(url: DatabaseUrl, longest: timedelta | None = None) -> Iterator[SqliteSnapshot]:
    """Open the file; every query sees the same moment.

    Args:
        url: The database.
        longest: After this time a query is ended.

    Raises:
        DatabaseUnreachableError: the file is missing or no database.
        UsageError: a query failed, or was ended.
    """
    if url.sqlite_path is None or not url.sqlite_path.is_file():
        raise unreachable(url, "the file does not exist")
    seconds = math.inf if longest is None else longest.total_seconds()
    ends_at = time.monotonic() + seconds
    try:
        with (
            database_errors(url),
            closing(
                sqlite3.connect(
                    f"file:{quote(str(url.sqlite_path))}?mode=ro",
                    uri=True,
                    timeout=min(SQLITE_BUSY_TIMEOUT_SECONDS, seconds),
                    isolation_level=None,
                    # DuckDB reads a stream in threads of its own, one after the other.
                    check_same_thread=False,
                )
            ) as connection,
        ):
            connection.text_factory = bytes
            if longest is not None:
                connection.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS_BETWEEN_LOOKS)
            connection.execute("BEGIN")
            yield SqliteSnapshot(connection)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if longest is not None and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise took_too_long(url, longest) from error
        raise UsageError(
            f"Reading {url.redacted} ({url.setting}) failed: {error}.",
            remedy="Run it again when no other program holds the file; if it stays, check the file.",
        ) from error


def _column(values: Sequence[Any]) -> pa.Array:
    if isinstance(values[0], bytes):
        # Whether they are text is looked at where the row can be named.
        return pa.array(values, pa.binary()).view(pa.string())
    return pa.array(values, pa.int64())
