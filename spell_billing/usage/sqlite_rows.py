"""Streams of a month's rows in a SQLite file, as the freeze takes them: sorted by `MonthFilter`."""

import sqlite3
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.usage.contract import Totals
from spell_billing.usage.duck import open_duckdb
from spell_billing.usage.sqlite_sql import IS_USER, SqliteUsageSql, of_user
from spell_billing.usage.sqlite_times import MonthFilter

_BATCH_ROWS = 50_000
_SUMMING_MEMORY_BYTES = 1 << 28


def written_schema(sql: SqliteUsageSql) -> pa.Schema:
    """Return the schema of frozen rows."""
    return pa.schema(
        [
            pa.field("id", pa.int64() if sql.has_integer_ids else pa.string()),
            pa.field("user_id", pa.string()),
            pa.field("cost_cents", pa.int64()),
            pa.field("created_at", pa.timestamp("us", tz="UTC")),
        ]
    )


def batches_of(
    connection: sqlite3.Connection, query: str, given: Mapping[str, Any] | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of `SqliteUsageSql.rows`."""
    # As bytes, which need not be text: `require_text` names the user whose id is none.
    connection.text_factory = bytes
    try:
        cursor = connection.execute(query, given or {})
        while rows := cursor.fetchmany(_BATCH_ROWS):
            ids, users, costs, moments, problems = zip(*rows, strict=True)
            columns = [
                _integers(ids) if isinstance(ids[0], int) else _texts(ids),
                _texts(users),
                _integers(costs),
                _texts(moments),
                _texts(problems),
            ]
            yield pa.RecordBatch.from_arrays(
                columns, names=["id", "user_id", "cost_cents", "created_at", "problem"]
            )
    finally:
        connection.text_factory = str


def _integers(values: Sequence[int]) -> pa.Array:
    # Buffers, because pa.array loads pandas.
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(array("q", values))])


def _texts(values: Sequence[bytes]) -> pa.Array:
    offsets = array("i", accumulate(map(len, values), initial=0))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def sums_of_month(
    connection: sqlite3.Connection,
    sql: SqliteUsageSql,
    month: Month,
    *,
    key: str,
    user_id: str | None = None,
) -> dict[Any, Totals]:
    """Add up the month's billable rows, or one user's of them, by a key: SQL over frozen rows."""
    which, given = ("", None) if user_id is None else (f" AND {IS_USER}", of_user(user_id))
    sums: dict[Any, Totals] = {}
    with open_duckdb(Path(tempfile.gettempdir()), memory_limit_bytes=_SUMMING_MEMORY_BYTES) as duck:
        rows = MonthFilter(duck, written_schema(sql))
        for batch in batches_of(connection, sql.rows(month) + which, given):
            duck.register("kept", rows.keep(batch, month))
            for value, calls, cost_cents in duck.execute(
                f"SELECT {key} AS key, count(*), sum(cost_cents) FROM kept GROUP BY key"
            ).fetchall():
                before = sums.get(value, Totals(0, Decimal(0)))
                cost = exact_sum(before.cost_cents, Decimal(cost_cents))
                sums[value] = Totals(before.calls + calls, cost)
            duck.unregister("kept")
    return sums


@contextmanager
def current_rows(
    connection: sqlite3.Connection, sql: SqliteUsageSql, rows: MonthFilter, month: Month
) -> Iterator[pa.RecordBatchReader]:
    """Open a stream of a month's rows as `compare_late_usage` takes them."""
    schema = pa.schema([("user_id", pa.string()), ("calls", pa.int64()), ("cost_cents", pa.int64())])

    def kept() -> Iterator[pa.RecordBatch]:
        for batch in batches_of(connection, sql.rows(month)):
            table = rows.keep(batch, month, earlier=True)
            ones = table["user_id"].is_valid().cast(pa.int64())
            columns = [table["user_id"], ones, table["cost_cents"]]
            yield from pa.Table.from_arrays(columns, schema=schema).to_batches()

    yield pa.RecordBatchReader.from_batches(schema, kept())


@contextmanager
def column_values(
    connection: sqlite3.Connection,
    sql: SqliteUsageSql,
    duck: duckdb.DuckDBPyConnection,
    column: str,
    month: Month,
) -> Iterator[pa.RecordBatchReader]:
    """Open a stream of a column of the month's billable rows, as `Uniqueness` takes it."""
    rows = MonthFilter(duck, written_schema(sql).set(0, pa.field("id", pa.string())))
    schema = pa.schema([("value", pa.string())])

    def values() -> Iterator[pa.RecordBatch]:
        for batch in batches_of(connection, sql.rows(month, identity=column)):
            yield from pa.Table.from_arrays([rows.keep(batch, month)["id"]], schema=schema).to_batches()

    yield pa.RecordBatchReader.from_batches(schema, values())
