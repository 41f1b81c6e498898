"""Connects to the engines that Ibis serves, and brings what they answer as Arrow, without a float."""

import signal
import tempfile
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa

from spell_billing.core.errors import SettingsError, SpellBillingError, UsageError, UsageInterruptedError
from spell_billing.settings.databases import DatabaseUnreachableError
from spell_billing.settings.lakes import LakeUrl
from spell_billing.usage.duck import open_duckdb, parquet_list, quoted
from spell_billing.usage.lake_files import rows_in_folder, table_files

_MEMORY_BYTES = 2 << 30
_VIEWS = "spell_billing_"


IBIS_NAMES = {"spark": "pyspark"}
"""What Ibis calls an engine, where its URL has another name."""


class Engine(ABC):
    """A connection to an engine, in UTC."""

    @abstractmethod
    def table(self, name: str) -> ir.Table | None:
        """Return a table, with the names of its columns in lower case; None where there is none."""

    @abstractmethod
    def stream(self, expression: ir.Table) -> pa.RecordBatchReader:
        """Run a query in the engine, and bring its rows in batches."""

    def read(self, expression: ir.Expr) -> pa.Table:
        """Run a query in the engine, and bring all of its rows."""
        return self.stream(expression.as_table()).read_all()

    def cancel(self) -> bool:
        """End what another thread runs here; return whether the engine can."""
        return False


@contextmanager
def open_engine(url: LakeUrl) -> Iterator[Engine]:
    """Connect, and turn the errors of every engine into those that operators see.

    Raises:
        SettingsError: what the engine needs is not installed.
        DatabaseUnreachableError: it does not answer.
        UsageError: it refuses a query.
    """
    connected = False
    try:
        with _opened(url) as engine:
            connected = True
            yield engine
    except ImportError as error:
        raise SettingsError(
            f"{url.setting} names {url.backend}, whose client is not installed: {error}.",
            remedy=f"Install it: pip install 'ibis-framework[{IBIS_NAMES.get(url.backend, url.backend)}]'.",
        ) from error
    except Exception as error:  # each engine has errors of its own
        if isinstance(error, SpellBillingError) or (connected and type(error).__module__ == "builtins"):
            raise
        reason = _first_line(error, url)
        if not connected:
            raise DatabaseUnreachableError(
                f"{url.redacted} ({url.setting}) cannot be used: {reason}.",
                remedy=f"Check that it is there, and that {url.setting} has the right host, path and login.",
            ) from error
        raise UsageError(
            f"Reading {url.redacted} ({url.setting}) failed: {reason}.",
            remedy="Nothing was frozen. If the engine mentions an overflow, correct absurd amounts; "
            "otherwise run it again, and look into the engine's own log.",
        ) from error


def _opened(url: LakeUrl) -> AbstractContextManager[Engine]:
    if url.backend == "duckdb":
        return _open_duckdb(url)
    return nullcontext(_Spark(url)) if url.backend == "spark" else closing(_AnyEngine(url))


def _first_line(error: Exception, url: LakeUrl) -> str:
    line = next((each for each in str(error).splitlines() if each.strip()), type(error).__name__)
    for secret in url.secrets:
        line = line.replace(secret, "***")
    return line.strip().rstrip(".")[:500]


def _lower(table: ir.Table) -> ir.Table:
    names = {name.lower(): name for name in table.columns if name != name.lower()}
    return table.rename(names) if names else table


class _DuckDB(Engine):
    """DuckDB over a folder of Parquet files, or over a DuckDB file.

    The folder is listed once: what appears in it later is of no query, and a file that was changed or taken
    away meanwhile is refused. So all queries see the same.
    """

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self._path = path
        self._duck = connection
        self._ibis = ibis.duckdb.from_connection(connection)
        self._files: dict[Path, tuple[int, int]] = {}
        if path.is_file():
            connection.execute(f"ATTACH {quoted(path)} AS platform (READ_ONLY)")

    def table(self, name: str) -> ir.Table | None:
        rows = self._rows_in_file(name) if self._path.is_file() else self._rows_in_folder(name)
        if rows is None:
            return None
        self._duck.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS FROM {rows}")
        return _lower(self._ibis.table(name))

    def _rows_in_file(self, name: str) -> str | None:
        found = self._duck.execute(
            "SELECT schema_name, table_name FROM "
            "(SELECT database_name, schema_name, table_name FROM duckdb_tables() UNION ALL "
            "SELECT database_name, schema_name, view_name FROM duckdb_views()) "
            "WHERE database_name = 'platform' AND lower(table_name) = $name "
            "ORDER BY schema_name <> 'main', schema_name",
            {"name": name},
        ).fetchall()
        schemas = [schema for schema, _ in found]
        if len(found) > 1 and schemas[0] != "main":
            raise UsageError(
                f"{name} stands in the schemas {' and '.join(schemas)} of duckdb://{self._path}.",
                remedy=f"Put a view main.{name} in front of the one that is billed.",
            )
        return ".".join(["platform", *(_as_name(part) for part in found[0])]) if found else None

    def _rows_in_folder(self, name: str) -> str | None:
        found = table_files(self._path, name)
        if found is None:
            return None
        self._files |= found.files
        options = f"union_by_name = true, hive_partitioning = {found.has_keys}"
        return f"{parquet_list(list(found.files)).removesuffix(')')}, {options})"

    def stream(self, expression: ir.Table) -> pa.RecordBatchReader:
        return self._duck.sql(self._ibis.compile(expression)).to_arrow_reader()

    def cancel(self) -> bool:
        self._duck.interrupt()
        return True

    def require_same_files(self) -> None:
        """Refuse what was read from files that were changed meanwhile."""
        changed = [file for file, state in self._files.items() if _state_of(file) != state]
        if changed:
            raise UsageInterruptedError(
                f"{changed[0]} was changed or removed while it was read.",
                remedy="Nothing was frozen. Run it again when nothing writes there.",
            )


def _as_name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _state_of(file: Path) -> tuple[int, int] | None:
    try:
        about = file.stat()
    except FileNotFoundError:
        return None
    return about.st_size, about.st_mtime_ns


@contextmanager
def _open_duckdb(url: LakeUrl) -> Iterator[Engine]:
    path = url.path
    if path is None or not path.exists():
        raise DatabaseUnreachableError(
            f"{url.redacted} ({url.setting}) cannot be used: there is no such folder or file.",
            remedy=f"Point {url.setting} to an absolute folder of Parquet files, or to a DuckDB file.",
        )
    with open_duckdb(Path(tempfile.gettempdir()), memory_limit_bytes=_MEMORY_BYTES) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        engine = _DuckDB(path, connection)
        yield engine
        engine.require_same_files()


class _Spark(Engine):
    """An Apache Spark cluster. The session lives as long as this process, and all reading shares it."""

    def __init__(self, url: LakeUrl) -> None:
        from pyspark.sql import SparkSession  # noqa: PLC0415 - no part of a usual installation

        builder = SparkSession.builder.appName("spell_billing")
        if url.host:
            builder = builder.master(f"spark://{url.host}")
        for name, value in url.options:
            if name.startswith("spark."):
                builder = builder.config(name, value)
        interrupted = signal.getsignal(signal.SIGINT)
        self._session = builder.getOrCreate()
        if threading.current_thread() is threading.main_thread():
            # Spark's own outlives its session, and fails then. What runs is cancelled by `cancel`.
            signal.signal(signal.SIGINT, interrupted)
        # Without it a sum that overflows is null, and a number that cannot be read as well.
        self._session.conf.set("spark.sql.ansi.enabled", "true")
        self._session.conf.set("spark.sql.session.timeZone", "UTC")
        # Else user_id=007 is user 7.
        self._session.conf.set("spark.sql.sources.partitionColumnTypeInference.enabled", "false")
        self._ibis = ibis.pyspark.from_connection(self._session)
        self._database = url.database or None
        self._folder = dict(url.options).get("folder")
        self._group = uuid.uuid4().hex

    def table(self, name: str) -> ir.Table | None:
        if self._folder:
            rows = rows_in_folder(self._session, self._folder, name)
        else:
            rows = self._rows_in_catalog(name)
        if rows is None:
            return None
        # A view of its own: one of the table's name would hide the table in Spark's other queries.
        view = f"{_VIEWS}{name}"
        rows.createOrReplaceTempView(view)
        return _lower(self._ibis.table(view))

    def _rows_in_catalog(self, name: str) -> Any:
        full_name = f"{self._database}.{name}" if self._database else name
        return self._session.table(full_name) if self._session.catalog.tableExists(full_name) else None

    def stream(self, expression: ir.Table) -> pa.RecordBatchReader:
        # Ibis would go through pandas, and a Python object for each amount.
        self._session.sparkContext.setJobGroup(self._group, "spell_billing", interruptOnCancel=True)
        return self._session.sql(self._ibis.compile(expression)).toArrow().to_reader()

    def cancel(self) -> bool:
        self._session.sparkContext.cancelJobGroup(self._group)
        return True


class _AnyEngine(Engine):
    """What Ibis connects to by a URL. Untried here but for the SQL that it compiles."""

    def __init__(self, url: LakeUrl) -> None:
        self._ibis: Any = ibis.connect(url.text)

    @cached_property
    def _names(self) -> dict[str, str]:
        return {name.lower(): name for name in self._ibis.list_tables()}

    def table(self, name: str) -> ir.Table | None:
        found = self._names.get(name)
        return None if found is None else _lower(self._ibis.table(found))

    def stream(self, expression: ir.Table) -> pa.RecordBatchReader:
        return self._ibis.to_pyarrow_batches(expression)

    def close(self) -> None:
        self._ibis.disconnect()
