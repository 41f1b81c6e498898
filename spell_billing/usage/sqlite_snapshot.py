"""One consistent, read-only view of a SQLite file, read by a process of its own (see `sqlite_reader`)."""

import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pyarrow as pa

from spell_billing.core.errors import UsageError
from spell_billing.settings.databases import DatabaseUrl, unreachable
from spell_billing.usage.tables import Columns, texts

_DYING_SECONDS = 5.0
_READER_SCRIPT = Path(__file__).with_name("sqlite_reader.py")


@dataclass(frozen=True)
class SqliteSnapshot:
    """A read transaction in the reader's process; answers one query at a time."""

    questions: IO[bytes]
    answers: pa.PythonFile

    @contextmanager
    def stream(self, query: str) -> Iterator[pa.RecordBatchReader]:
        """Stream a large result; what the caller leaves of it is skipped."""
        self.questions.write(json.dumps(query).encode() + b"\n")
        self.questions.flush()
        with pa.ipc.open_stream(self.answers) as reader:
            yield reader
            for _ in reader:
                pass

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Read a small result whole."""
        with self.stream(query) as reader:
            found: list[dict[str, Any]] = reader.read_all().to_pylist()
            return found


@contextmanager
def open_sqlite_snapshot(url: DatabaseUrl) -> Iterator[SqliteSnapshot]:
    """Start a reader whose every query sees the same moment.

    Raises:
        DatabaseUnreachableError: the file is missing or no database.
        UsageError: a query failed, or the reader died.
    """
    if url.sqlite_path is None or not url.sqlite_path.is_file():
        raise unreachable(url, "the file does not exist")
    command = [sys.executable, str(_READER_SCRIPT), f"file:{quote(str(url.sqlite_path))}?mode=ro"]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
        ) as process,
    ):
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the reader was started without pipes")
        try:
            yield SqliteSnapshot(process.stdin, pa.PythonFile(process.stdout, mode="r"))
        except (pa.ArrowInvalid, BrokenPipeError) as error:
            # The stream ends early when the reader fails: its own words say why.
            with suppress(subprocess.TimeoutExpired):
                process.wait(_DYING_SECONDS)
            if not process.returncode:
                raise
            raise _failure(url, complaints) from error
        finally:
            process.kill()


def _failure(url: DatabaseUrl, complaints: IO[bytes]) -> Exception:
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines() or ["the reader was killed"]
    reason = lines[-1]
    if "failed to open" in reason or "not a database" in reason:
        return unreachable(url, reason)
    return UsageError(
        f"Reading {url.redacted} ({url.setting}) failed: {reason}.",
        remedy="Run it again when no other program holds the file; if it stays, check the file.",
    )


def read_texts(
    connection: sqlite3.Connection,
    table: str,
    found: Columns,
    names: tuple[str, ...],
    users: Collection[str] | None = None,
) -> pa.Table:
    """Return columns of a table as text, null where the table has no such column; of some users, or all."""
    columns = ", ".join(f"CAST({name if name in found else 'NULL'} AS TEXT)" for name in names)
    which = "" if users is None else " WHERE CAST(user_id AS TEXT) IN (SELECT value FROM json_each(?))"
    given = () if users is None else (json.dumps(sorted(users)),)
    rows = connection.execute(f"SELECT {columns} FROM {table}{which}", given).fetchall() if found else []
    values = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table({name: texts(column) for name, column in zip(names, values, strict=True)})
