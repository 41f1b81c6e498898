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
import pyarrow.compute as pc

from spell_billing.core.items import OTHER
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.settings.databases import (
    DatabaseUrl,
)
from spell_billing.usage.contract import OnProgress, Past, SourceRules, outside_of
from spell_billing.usage.duck import UTC_DAY
from spell_billing.usage.frozen import PLAIN, BadRow, BadRows, DayUsage, Detail, Outside, Totals, together
from spell_billing.usage.rate_cards import Counts
from spell_billing.usage.row_writer import FrozenRows, RowWriter, require_equal_totals
from spell_billing.usage.so_far import ItemSoFar
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
from spell_billing.usage.tables import USAGE_TABLE, Column, Columns, texts
from spell_billing.usage.usage_tables import UsageTables


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
        return MonthFilter(self._duck, self._schema)

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
            shape=lambda batch: self._filter.keep(batch, month, schema=schema),
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
        schema = pa.schema([("user_id", pa.string()), ("calls", pa.int64()), ("cost_cents", pa.int64())])

        def kept() -> Iterator[pa.RecordBatch]:
            for batch in self._reader.batches(self._sql.rows(month)):
                table = self._filter.keep(batch, month, earlier=True)
                ones = table["user_id"].is_valid().cast(pa.int64())
                columns = [table["user_id"], ones, table["cost_cents"]]
                yield from pa.Table.from_arrays(columns, schema=schema).to_batches()

        yield pa.RecordBatchReader.from_batches(schema, kept())

    @contextmanager
    def current_items(self, month: Month, detail: Detail) -> Iterator[pa.RecordBatchReader]:
        """See `UsageTables.current_items`."""
        names = ("user_id", "item", "calls", "quantity", "measured", "cost_cents")
        schema = pa.schema([(name, pa.string() if name in names[:2] else pa.int64()) for name in names])
        kept_schema = self._detailed(detail)

        def kept() -> Iterator[pa.RecordBatch]:
            for batch in self._reader.batches(self._sql.rows(month, detail=detail)):
                table = self._filter.keep(batch, month, earlier=True, schema=kept_schema)
                users = table["user_id"]
                ones = users.is_valid().cast(pa.int64())
                item = table["item"] if detail.items_by else pc.if_else(users.is_valid(), OTHER, OTHER)
                quantity = table["quantity"] if detail.has_quantity else pc.subtract(ones, ones)
                measured = quantity.is_valid().cast(pa.int64())
                columns = [users, item, ones, pc.fill_null(quantity, 0), measured, table["cost_cents"]]
                yield from pa.Table.from_arrays(columns, schema=schema).to_batches()

        yield pa.RecordBatchReader.from_batches(schema, kept())

    def items_so_far(self, month: Month, detail: Detail, user_id: str | None = None) -> Iterator[ItemSoFar]:
        """See `UsageTables.items_so_far`."""
        item = "item" if detail.items_by else f"'{OTHER}'"
        quantity = "quantity" if detail.has_quantity else "NULL"
        counts = f"count({quantity}), coalesce(sum({quantity}), 0)::VARCHAR, sum(cost_cents)::VARCHAR"
        sums: dict[tuple[str, str], ItemSoFar] = {}
        for user, name, calls, measured, units, cost in self._grouped(
            month, f"user_id, {item}", counts, user_id, detail
        ):
            before = sums.get((user, name), ItemSoFar(user, name, Counts(0, 0, Decimal(0)), Decimal(0)))
            had = before.counts
            sums[user, name] = ItemSoFar(
                user,
                name,
                Counts(had.calls + calls, had.measured + measured, exact_sum(had.quantity, Decimal(units))),
                exact_sum(before.stored_cents, Decimal(cost)),
            )
        yield from sums.values()

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
        rows = MonthFilter(self._duck, self._schema.set(0, pa.field("id", pa.string())))
        schema = pa.schema([("value", pa.string())])

        def values() -> Iterator[pa.RecordBatch]:
            for batch in self._reader.batches(self._sql.rows(month, identity=column)):
                yield from pa.Table.from_arrays([rows.keep(batch, month)["id"]], schema=schema).to_batches()

        yield pa.RecordBatchReader.from_batches(schema, values())

    def outside(self, now: datetime, past: Past) -> Outside:
        """See `UsageTables.outside`."""
        query = self._sql.outside(now=now, first=past.first.start)
        ((future, before_first),) = self._reader.rows(query)
        calls = {str(month): self.control(month).calls for month, _ in past.billed}
        return outside_of(past, calls, future=future, before_first=before_first)

    def sums(self, month: Month) -> dict[str, Totals]:
        """See `UsageTables.sums`."""
        return self._sums(month, "user_id")

    def days(self, user_id: str, month: Month) -> list[DayUsage]:
        """See `UsageTables.days`."""
        sums = self._sums(month, UTC_DAY, user_id)
        return [DayUsage(day, sums[day].calls, sums[day].cost_cents) for day in sorted(sums)]

    def _sums(self, month: Month, key: str, user_id: str | None = None) -> dict[Any, Totals]:
        """Add up the month's billable rows, or one user's of them, by a key: SQL over frozen rows."""
        sums: dict[Any, Totals] = {}
        for value, calls, cost_cents in self._grouped(month, key, "sum(cost_cents)", user_id):
            before = sums.get(value, Totals(0, Decimal(0)))
            cost = exact_sum(before.cost_cents, Decimal(cost_cents))
            sums[value] = Totals(before.calls + calls, cost)
        return sums

    def _grouped(
        self, month: Month, keys: str, sums: str, user_id: str | None, detail: Detail = PLAIN
    ) -> Iterator[tuple[Any, ...]]:
        """Read keys, calls and sums of the month's billable rows, batch by batch."""
        query, schema = self._sql.rows(month, detail=detail), self._detailed(detail)
        for batch in (
            self._reader.batches(query)
            if user_id is None
            else batches_of(self._connection, f"{query} AND {IS_USER}", of_user(user_id))
        ):
            self._duck.register("kept", self._filter.keep(batch, month, schema=schema))
            yield from self._duck.execute(
                f"SELECT {keys}, count(*), {sums} FROM kept GROUP BY {keys}"
            ).fetchall()
            self._duck.unregister("kept")
