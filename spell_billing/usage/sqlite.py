"""The usage source in a SQLite file: whole cents only, text times read exactly."""

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from spell_billing.core.errors import UsageError
from spell_billing.settings.databases import (
    SQLITE_BUSY_TIMEOUT_SECONDS,
    DatabaseUrl,
    database_errors,
    unreachable,
)
from spell_billing.usage.adapter import SqlUsage
from spell_billing.usage.contract import ONE_USER_SECONDS, SourceRules
from spell_billing.usage.duck import open_duckdb
from spell_billing.usage.sqlite_process import open_sqlite_reader
from spell_billing.usage.sqlite_tables import SqliteTables
from spell_billing.usage.tables import took_too_long
from spell_billing.usage.usage_tables import UsageTables

T = TypeVar("T")

_STEPS_BETWEEN_LOOKS = 10_000
_FILTER_MEMORY_BYTES = 1 << 28


class SqliteUsage(SqlUsage):
    """Reads usage and accounts from a SQLite file; implements `UsageSource`.

    Months are read by Arrow's driver, in a process of its own; accounts and single users by Python's own.
    """

    _url: DatabaseUrl

    def __init__(self, url: DatabaseUrl, rules: SourceRules) -> None:
        # The names of columns have no case here.
        super().__init__(url, rules.in_lower_case())

    def _read(self, act: Callable[[UsageTables], T]) -> T:
        with self._snapshot(SQLITE_BUSY_TIMEOUT_SECONDS) as tables:
            return act(tables)

    def _read_of_user(self, user_id: str, act: Callable[[UsageTables], T]) -> T | None:  # noqa: ARG002
        with self._snapshot(ONE_USER_SECONDS, end=time.monotonic() + ONE_USER_SECONDS) as tables:
            return act(tables)

    @contextmanager
    def _snapshot(self, wait_seconds: float, *, end: float | None = None) -> Iterator[SqliteTables]:
        """Open a read transaction, whose queries see one moment; queries fail after `end` (monotonic)."""
        path = self._url.sqlite_path
        if path is None or not path.is_file():
            raise unreachable(self._url, "the file does not exist")
        name = f"file:{quote(str(path))}?mode=ro"
        try:
            with (
                database_errors(self._url),
                ExitStack() as months,
                # DuckDB takes batches from a thread of its own, one at a time.
                closing(
                    sqlite3.connect(
                        name, uri=True, timeout=wait_seconds, isolation_level=None, check_same_thread=False
                    )
                ) as connection,
                ExitStack() as ducks,
            ):
                if end is not None:
                    connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS_BETWEEN_LOOKS)
                connection.execute("BEGIN")
                yield SqliteTables(
                    self._url,
                    self._rules,
                    connection=connection,
                    open_duck=lambda: ducks.enter_context(
                        open_duckdb(Path(tempfile.gettempdir()), memory_limit_bytes=_FILTER_MEMORY_BYTES)
                    ),
                    open_reader=lambda: months.enter_context(open_sqlite_reader(self._url)),
                )
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise took_too_long(self._url) from error
            raise UsageError(
                f"Reading {self._url.redacted} ({self._url.setting}) failed: {error}.",
                remedy="Run it again when no other program holds the file; if it persists, check the file.",
            ) from error
