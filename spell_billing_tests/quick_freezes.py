"""What a freeze starts, kept ready for tests in which a freeze is only the way to somewhere else.

For a month of few rows a freeze spends its time on starting things: a process that reads SQLite, and DuckDB
again and again. The tests of `usage` start their own.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from itertools import count
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from spell_billing.usage import duck, sqlite_process
from spell_billing_tests.ready_reader import ReadyReader, ready_reader


class _Database:
    """An empty database in a DuckDB that runs, which goes when its connection is closed.

    No annotation here names DuckDB's types: this module outlives them, and they would complain of it.
    """

    def __init__(self, running: Any, name: str) -> None:
        self._connection, self._name = running.cursor(), name
        self._connection.execute(f"ATTACH ':memory:' AS {name}; USE {name}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self) -> Any:
        another = self._connection.cursor()
        another.execute(f"USE {self._name}")
        return another

    def close(self) -> None:
        self._connection.execute(f"USE memory; DETACH {self._name}")
        self._connection.close()


class _ReadyDuckDB:
    """Opens databases as `duckdb.connect` does, in one DuckDB for each memory limit."""

    def __init__(self, spill: str) -> None:
        self._running: dict[str, Any] = {}
        self._spill = spill
        self._numbers = count()

    def connect(self, _memory: str, *, config: dict[str, Any]) -> _Database:
        limit = config["memory_limit"]
        if limit not in self._running:
            self._running[limit] = duckdb.connect(config={**config, "temp_directory": self._spill})
        return _Database(self._running[limit], f"database_{next(self._numbers)}")

    def close(self) -> None:
        while self._running:
            self._running.popitem()[1].close()


@pytest.fixture(scope="session")
def ready_reader_process() -> Iterator[Callable[..., ReadyReader]]:
    """Give what to call in place of `Popen`: the process starts when it is first called."""
    with ExitStack() as started:
        start = cache(lambda: started.enter_context(ready_reader()))

        def popen(command: list[str], **pipes: Any) -> ReadyReader:
            return start()(command, **pipes)

        yield popen


@pytest.fixture(scope="session")
def ready_duckdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_ReadyDuckDB]:
    with closing(_ReadyDuckDB(str(tmp_path_factory.mktemp("spill")))) as ready:
        yield ready


@pytest.fixture(autouse=True)
def quick_freezes(
    ready_reader_process: Callable[..., ReadyReader],
    ready_duckdb: _ReadyDuckDB,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let this process's freezes use what is ready; a folder that wants its own overrides this."""
    started = {name: getattr(subprocess, name) for name in ("PIPE", "TimeoutExpired")}
    monkeypatch.setattr(sqlite_process, "subprocess", SimpleNamespace(**started, Popen=ready_reader_process))
    opened = {name: getattr(duckdb, name) for name in ("Error", "DuckDBPyConnection")}
    monkeypatch.setattr(duck, "duckdb", SimpleNamespace(**opened, connect=ready_duckdb.connect))
