"""The usage source in a SQLite file: whole cents only, text times read exactly."""

import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import duckdb
import pyarrow as pa

from spell_billing.core.errors import UsageError
from spell_billing.core.items import OTHER
from spell_billing.core.month import Month
from spell_billing.settings.databases import (
    SQLITE_BUSY_TIMEOUT_SECONDS,
    DatabaseUrl,
    database_errors,
    unreachable,
)
from spell_billing.usage.adapter import SqlUsage
from spell_billing.usage.contract import ONE_USER_SECONDS, OnProgress, Past, SourceRules, outside_of
from spell_billing.usage.duck import UTC_DAY, open_duckdb
from spell_billing.usage.frozen import PLAIN, BadRow, BadRows, DayUsage, Detail, Outside, Totals, together
from spell_billing.usage.row_writer import FrozenRows, RowWriter, require_equal_totals
from spell_billing.usage.so_far import totals_by
from spell_billing.usage.sqlite_process import SqliteReader, open_sqlite_reader
from spell_billing.usage.sqlite_sql import (
    COLUMNS,
    IS_USER,
    KEY_INDEX,
    UNIQUE_COLUMNS,
    SqliteUsageSql,
    of_user,
)
from spell_billing.usage.sqlite_times import MonthFilter, batches_of
from spell_billing.usage.tables import ITEM_COLUMNS, USAGE_TABLE, Column, Columns, texts, took_too_long
from spell_billing.usage.usage_tables import UsageTables

T = TypeVar("T")

_STEPS_BETWEEN_LOOKS = 10_000
_FILTER_MEMORY_BYTES = 1 << 28
_SUM = pa.decimal128(38, 0)


class SqliteUsage(SqlUsage):
    """Reads usage and accounts from a SQLite file; implements `UsageSource`.

    Months are read by Arrow's driver, in a process of its own; accounts and single users by Python's own.
    """

    _url: DatabaseUrl

    def _read(self, act: Callable[[UsageTables], T]) -> T:
        with self._snapshot(SQLITE_BUSY_TIMEOUT_SECONDS) as tables:
            return act(tables)

    def _read_of_user(self, user_id: str, act: Callable[[UsageTables], T]) -> T | None:  # noqa: ARG002
        with self._snapshot(ONE_USER_SECONDS, end=time.monotonic() + ONE_USER_SECONDS) as tables:
            return act(tables)

    @contextmanager
    def _snapshot(self, wait_seconds: float, *, end: float | None = None) -> Iterator[UsageTables]:
        """Open a read transaction, whose queries see one moment; queries fail after `end` (monotonic)."""
        path = self._url.sqlite_path
        if path is None or not path.is_file():
            raise unreachable(self._url, "the file does not exist")
        name = f"file:{quote(str(path))}?mode=ro"
        try:
            with (
                database_errors(self._url),
                # DuckDB takes batches from a thread of its own, one at a time.
                closing(
                    sqlite3.connect(
                        name, uri=True, timeout=wait_seconds, isolation_level=None, check_same_thread=False
                    )
                ) as connection,
                ExitStack() as opened,
            ):
                if end is not None:
                    connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS_BETWEEN_LOOKS)
                connection.execute("BEGIN")
                yield _SqliteTables(self._url, self._rules, connection, opened)
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise took_too_long(self._url) from error
            raise UsageError(
                f"Reading {self._url.redacted} ({self._url.setting}) failed: {error}.",
                remedy="Run it again when no other program holds the file; if it persists, check the file.",
            ) from error


class _SqliteTables(UsageTables):
    """Implements `UsageTables`; DuckDB tells the month's rows from the others."""

    url: DatabaseUrl

    def __init__(
        self, url: DatabaseUrl, rules: SourceRules, connection: sqlite3.Connection, opened: ExitStack
    ) -> None:
        super().__init__(url, rules)
        self._connection = connection
        self._opened = opened

    @cached_property
    def _duck(self) -> duckdb.DuckDBPyConnection:
        place = Path(tempfile.gettempdir())
        return self._opened.enter_context(open_duckdb(place, memory_limit_bytes=_FILTER_MEMORY_BYTES))

    @cached_property
    def _reader(self) -> SqliteReader:
        return self._opened.enter_context(open_sqlite_reader(self.url))

    @cached_property
    def _sql(self) -> SqliteUsageSql:
        return SqliteUsageSql(self.usage_columns)

    @cached_property
    def _schema(self) -> pa.Schema:
        return pa.schema(
            [
                pa.field("id", pa.int64() if self._sql.has_integer_ids else pa.string()),
                pa.field("user_id", pa.string()),
                pa.field("cost_cents", pa.int64()),
                pa.field("created_at", pa.timestamp("us", tz="UTC")),
            ]
        )

    @cached_property
    def _filter(self) -> MonthFilter:
        return MonthFilter(self._duck)

    def columns(self, table: str) -> Columns:
        described = self._described(table)
        keys = sum(1 for *_, key in described if key)
        # The rowid alone holds integers whatever is inserted: an INTEGER key without an index of its own.
        # Other keys have one, as of a table WITHOUT ROWID, or if declared DESC.
        has_rowid = keys == 1 and not self._connection.execute(KEY_INDEX.format(table=table)).fetchall()
        return {
            name: Column(kind, nullable=not (has_rowid and key and kind == "integer"))
            for name, kind, key in described
        }

    def unique_columns(self) -> set[str]:
        keys = [name for name, _, key in self._described(USAGE_TABLE) if key]
        found = {name for (name,) in self._connection.execute(UNIQUE_COLUMNS.format(table=USAGE_TABLE))}
        # The key of a single column is unique, be it the rowid, which has no index, or not.
        return found.union(keys if len(keys) == 1 else ())

    def _described(self, table: str) -> list[tuple[str, str, bool]]:
        """Return the columns that a query can read: name and type in lower case, whether it is of the key."""
        described = self._connection.execute(COLUMNS.format(table=table))
        return [(name.lower(), kind.lower(), bool(key)) for name, kind, key in described]

    def texts(
        self, table: str, found: Columns, names: tuple[str, ...], users: Collection[str] | str | None
    ) -> pa.Table:
        columns = ", ".join(f"CAST({name if name in found else 'NULL'} AS TEXT)" for name in names)
        query = f"SELECT {columns} FROM {table}"
        given: dict[str, Any] = {}
        if isinstance(users, str):
            query, given = f"{query} WHERE {IS_USER}", of_user(users)
        elif users is not None:
            query = f"{query} WHERE CAST(user_id AS TEXT) IN (SELECT value FROM json_each(:users))"
            given = {"users": json.dumps(sorted(users))}
        rows = self._connection.execute(query, given).fetchall() if found else []
        values = zip(*rows, strict=True) if rows else [()] * len(names)
        return pa.table({name: texts(column) for name, column in zip(names, values, strict=True)})

    def _detailed(self, detail: Detail) -> pa.Schema:
        schema = self._schema
        if detail.items_by:
            schema = schema.append(pa.field("item", pa.string()))
        return schema.append(pa.field("quantity", pa.int64())) if detail.has_quantity else schema

    def freeze(
        self, month: Month, path: Path, on_progress: OnProgress | None, detail: Detail = PLAIN
    ) -> FrozenRows:
        control = self.control(month)
        timeless = self.timeless(month)
        schema = self._detailed(detail)
        with RowWriter(
            path,
            schema,
            shape=lambda batch: self._filter.keep(batch, month, schema),
            on_progress=on_progress,
            expected=control.calls,
        ) as writer:
            for batch in self._reader.batches(self._sql.rows(month, detail=detail)):
                writer.put(batch)
        self.bad_rows = self._filter.bad_rows = together(self._filter.bad_rows, timeless)
        if not self.bad_rows.count:
            # Else SQLite may count a row with a time that the exact reading refuses.
            require_equal_totals(month, frozen=writer.totals, control=control)
        return FrozenRows(writer.file, writer.totals, control, 0)

    def timeless(self, month: Month) -> BadRows:
        """Find rows of no month at all."""
        rows = self._reader.rows(self._sql.timeless(month))
        examples = tuple(BadRow(row_id, problem) for row_id, problem, _ in rows)
        return BadRows(rows[0][2] if rows else 0, examples)

    def control(self, month: Month) -> Totals:
        """Count and sum the billable rows in the database."""
        ((calls, high, low),) = self._reader.rows(self._sql.totals(month))
        return Totals(calls, Decimal((high << 32) + low))

    @contextmanager
    def current(
        self, month: Month, detail: Detail | None = None, user_id: str | None = None
    ) -> Iterator[pa.RecordBatchReader]:
        columns, schema = "user_id, count(*), sum(cost_cents)", _totals_by("user_id", pa.string())
        if detail is not None:
            item = "item" if detail.items_by else f"'{OTHER}'"
            quantity = "quantity" if detail.has_quantity else "NULL"
            columns = (
                f"user_id, {item}, count(*), coalesce(sum({quantity}), 0), count({quantity}), sum(cost_cents)"
            )
            types = (pa.string(), pa.string(), pa.int64(), _SUM, pa.int64(), _SUM)
            schema = pa.schema(list(zip(ITEM_COLUMNS, types, strict=True)))
        batches = self._grouped(month, columns, schema, user_id=user_id, detail=detail or PLAIN)
        yield pa.RecordBatchReader.from_batches(schema, batches)

    def inexact_quantities(self, month: Month, user_id: str | None = None) -> list[tuple[str, str]]:
        if user_id is not None:
            # Read as missing, which is refused where it is priced: the rows have no index by their quantity.
            return []
        return [(row_id, text) for row_id, text in self._reader.rows(self._sql.inexact_quantities(month))]

    def bad_now(self, month: Month) -> pa.Table | None:
        # Rows with a time that cannot be read are of no month, wherever they are found.
        self.bad_rows, self.earlier_bad_rows = self._filter.bad_rows, self._filter.earlier_bad_rows
        return self._filter.earlier_bad_now(month)

    @contextmanager
    def values(self, column: str, month: Month) -> Iterator[pa.RecordBatchReader]:
        rows, kept = MonthFilter(self._duck), self._schema.set(0, pa.field("id", pa.string()))
        schema = pa.schema([("value", pa.string())])

        def values() -> Iterator[pa.RecordBatch]:
            for batch in self._reader.batches(self._sql.rows(month, identity=column)):
                yield from pa.Table.from_arrays(
                    [rows.keep(batch, month, kept)["id"]], schema=schema
                ).to_batches()

        yield pa.RecordBatchReader.from_batches(schema, values())

    def outside(self, now: datetime, past: Past) -> Outside:
        query = self._sql.outside(now=now, first=past.first.start)
        ((future, before_first),) = self._reader.rows(query)
        calls = {str(month): self.control(month).calls for month, _ in past.billed}
        return outside_of(past, calls, future=future, before_first=before_first)

    def days(self, user_id: str, month: Month) -> list[DayUsage]:
        columns, schema = f"{UTC_DAY}, count(*), sum(cost_cents)", _totals_by("day", pa.date32())
        sums = totals_by("day", self._grouped(month, columns, schema, user_id=user_id))
        return [DayUsage(day, sums[day].calls, sums[day].cost_cents) for day in sorted(sums)]

    def _grouped(
        self,
        month: Month,
        columns: str,
        schema: pa.Schema,
        *,
        user_id: str | None = None,
        detail: Detail = PLAIN,
    ) -> Iterator[pa.RecordBatch]:
        """Read keys and sums of the month's billable rows, or of one user's: SQL over frozen rows."""
        query, kept = self._sql.rows(month, detail=detail), self._detailed(detail)
        for batch in (
            self._reader.batches(query)
            if user_id is None
            else batches_of(self._connection, f"{query} AND {IS_USER}", of_user(user_id))
        ):
            self._duck.register("kept", self._filter.keep(batch, month, kept, earlier=True))
            found = self._duck.sql(f"SELECT {columns} FROM kept GROUP BY ALL").to_arrow_table()
            self._duck.unregister("kept")
            yield from found.rename_columns(schema.names).cast(schema).to_batches()


def _totals_by(key: str, kind: pa.DataType) -> pa.Schema:
    return pa.schema([(key, kind), ("calls", pa.int64()), ("cost_cents", _SUM)])
