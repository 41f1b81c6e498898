"""The platform's tables as one snapshot of a SQLite file has them."""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from spell_billing.core.items import OTHER
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl
from spell_billing.usage.contract import OnProgress, Past, SourceRules, outside_of
from spell_billing.usage.duck import UTC_DAY
from spell_billing.usage.frozen import PLAIN, BadRow, BadRows, DayUsage, Detail, Outside, Totals, together
from spell_billing.usage.row_writer import FrozenRows, RowWriter, require_equal_totals
from spell_billing.usage.so_far import totals_by
from spell_billing.usage.sqlite_process import SqliteReader
from spell_billing.usage.sqlite_sql import (
    COLUMNS,
    IS_USER,
    KEY_INDEX,
    UNIQUE_COLUMNS,
    SqliteUsageSql,
    of_user,
)
from spell_billing.usage.sqlite_times import MonthFilter, batches_of
from spell_billing.usage.tables import ITEM_COLUMNS, USAGE_TABLE, Column, Columns, texts
from spell_billing.usage.usage_tables import UsageTables

_SUM = pa.decimal128(38, 0)


class SqliteTables(UsageTables):
    """Implements `UsageTables`; DuckDB tells the month's rows from the others."""

    def __init__(
        self,
        url: DatabaseUrl,
        rules: SourceRules,
        *,
        connection: sqlite3.Connection,
        open_duck: Callable[[], duckdb.DuckDBPyConnection],
        open_reader: Callable[[], SqliteReader],
    ) -> None:
        super().__init__(url, rules)
        self._connection = connection
        self._open_duck = open_duck
        self._open_reader = open_reader

    @cached_property
    def _duck(self) -> duckdb.DuckDBPyConnection:
        return self._open_duck()

    @cached_property
    def _reader(self) -> SqliteReader:
        return self._open_reader()

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
        """See `UsageTables.columns`."""
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
        """See `UsageTables.unique_columns`."""
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
        """See `UsageTables.texts`."""
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
        """See `UsageTables.freeze`."""
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
    def current(self, month: Month) -> Iterator[pa.RecordBatchReader]:
        """See `UsageTables.current`."""
        schema = _totals_by("user_id", pa.string())
        batches = self._grouped(month, "user_id, count(*), sum(cost_cents)", schema)
        yield pa.RecordBatchReader.from_batches(schema, batches)

    @contextmanager
    def current_items(
        self, month: Month, detail: Detail, user_id: str | None = None
    ) -> Iterator[pa.RecordBatchReader]:
        """See `UsageTables.current_items`."""
        item = "item" if detail.items_by else f"'{OTHER}'"
        quantity = "quantity" if detail.has_quantity else "NULL"
        columns = (
            f"user_id, {item}, count(*), coalesce(sum({quantity}), 0), count({quantity}), sum(cost_cents)"
        )
        types = (pa.string(), pa.string(), pa.int64(), _SUM, pa.int64(), _SUM)
        schema = pa.schema(list(zip(ITEM_COLUMNS, types, strict=True)))
        batches = self._grouped(month, columns, schema, user_id=user_id, detail=detail)
        yield pa.RecordBatchReader.from_batches(schema, batches)

    def inexact_quantities(self, month: Month, user_id: str | None = None) -> list[tuple[str, str]]:
        """See `UsageTables.inexact_quantities`."""
        if user_id is not None:
            # Read as missing, which is refused where it is priced: the rows have no index by their quantity.
            return []
        return [(row_id, text) for row_id, text in self._reader.rows(self._sql.inexact_quantities(month))]

    def bad_now(self, month: Month) -> pa.Table | None:
        """See `UsageTables.bad_now`."""
        # Rows with a time that cannot be read are of no month, wherever they are found.
        self.bad_rows, self.earlier_bad_rows = self._filter.bad_rows, self._filter.earlier_bad_rows
        return self._filter.earlier_bad_now(month)

    @contextmanager
    def values(self, column: str, month: Month) -> Iterator[pa.RecordBatchReader]:
        """See `UsageTables.values`."""
        rows, kept = MonthFilter(self._duck), self._schema.set(0, pa.field("id", pa.string()))
        schema = pa.schema([("value", pa.string())])

        def values() -> Iterator[pa.RecordBatch]:
            for batch in self._reader.batches(self._sql.rows(month, identity=column)):
                yield from pa.Table.from_arrays(
                    [rows.keep(batch, month, kept)["id"]], schema=schema
                ).to_batches()

        yield pa.RecordBatchReader.from_batches(schema, values())

    def outside(self, now: datetime, past: Past) -> Outside:
        """See `UsageTables.outside`."""
        query = self._sql.outside(now=now, first=past.first.start)
        ((future, before_first),) = self._reader.rows(query)
        calls = {str(month): self.control(month).calls for month, _ in past.billed}
        return outside_of(past, calls, future=future, before_first=before_first)

    def days(self, user_id: str, month: Month) -> list[DayUsage]:
        """See `UsageTables.days`."""
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
