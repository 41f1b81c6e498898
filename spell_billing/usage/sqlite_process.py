"""Asks the process that reads a SQLite file with Arrow's driver: see `sqlite_reader`."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pyarrow as pa

from spell_billing.core.errors import UsageError
from spell_billing.settings.databases import DatabaseUrl, unreachable

_DYING_SECONDS = 5.0
_SCRIPT = Path(__file__).with_name("sqlite_reader.py")


@dataclass(frozen=True)
class SqliteReader:
    """A read transaction in the reader's process; answers one query at a time."""

    questions: IO[bytes]
    answers: pa.PythonFile

    def batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """Stream a large result; what the caller leaves of it is skipped."""
        self.questions.write(json.dumps(query).encode() + b"\n")
        self.questions.flush()
        with pa.ipc.open_stream(self.answers) as reader:
            try:
                yield from reader
            finally:
                for _ in reader:
                    pass

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read a small result whole."""
        return [tuple(row.values()) for batch in self.batches(query) for row in batch.to_pylist()]


@contextmanager
def open_sqlite_reader(url: DatabaseUrl) -> Iterator[SqliteReader]:
    """Start a reader whose every query sees the same moment.

    Raises:
        DatabaseUnreachableError: the file is missing or no database.
        UsageError: a query failed, or the reader died.
    """
    command = [sys.executable, str(_SCRIPT), f"file:{quote(str(url.sqlite_path))}?mode=ro"]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
        ) as process,
    ):
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the reader was started without pipes")
        try:
            yield SqliteReader(process.stdin, pa.PythonFile(process.stdout, mode="r"))
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
        remedy="Run it again when no other program holds the file; if it persists, check the file.",
    )
