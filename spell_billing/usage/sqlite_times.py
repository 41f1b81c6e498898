"""Reads rows of SQLite, and sorts them into month and bad rows: text times read exactly, cut to microseconds.

Times are ISO 8601 of any precision, with a zone or without (then UTC). DuckDB's own cast from text to
TIMESTAMP overlooks a zone offset, and takes hour 24; so the shape is checked first and the offset subtracted
here. Fractions are cut, never rounded: a row must not cross a boundary.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.month import Month
from spell_billing.usage.frozen import MAX_EXAMPLES, NO_BAD_ROWS, BadRow, BadRows, together
from spell_billing.usage.late_bad import BAD_NOW_SCHEMA
from spell_billing.usage.tables import texts

_CLOCK = r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?"
_OFFSET = r"[+-](0\d|1[0-4])(:?[0-5]\d)?"
_DATE = r"\d{4}-\d{2}-\d{2}"
# Where a zone can begin: after a date, a separator, hours and minutes.
_ZONE_PLACE = 17
_ZONE = f"regexp_extract(substr(created_at, {_ZONE_PLACE}), '{_OFFSET}$')"
_ZONE_DIGITS = f"rpad(replace({_ZONE}[2:], ':', ''), 4, '0')"
_MINUTES = f"(60 * {_ZONE_DIGITS}[1:2]::BIGINT + {_ZONE_DIGITS}[3:4]::BIGINT)"
_MOMENT = (
    f"CASE WHEN regexp_full_match(created_at, '{_DATE}([T ]{_CLOCK})?') "
    "THEN TRY_CAST(created_at AS TIMESTAMP) "
    f"WHEN regexp_full_match(created_at, '{_DATE}[T ]{_CLOCK}Z') "
    "THEN TRY_CAST(left(created_at, -1) AS TIMESTAMP) "
    f"WHEN regexp_full_match(created_at, '{_DATE}[T ]{_CLOCK}{_OFFSET}') "
    f"THEN TRY_CAST(left(created_at, -length({_ZONE})) AS TIMESTAMP) "
    f"- to_minutes(CASE WHEN {_ZONE}[1] = '-' THEN -{_MINUTES} ELSE {_MINUTES} END) END"
)
_QUERY = (
    "SELECT *, "
    # An unreadable time lies outside; whose row it is cannot be told, so it counts as bad.
    "coalesce(moment >= $start AND moment < $end, false) AS inside, "
    "moment IS NULL OR problem <> '' AND inside AS bad, inside AND NOT bad AS good "
    f"FROM (SELECT *, {_MOMENT} AS moment FROM batch)"
)
_BATCH_ROWS = 50_000


class MonthFilter:
    """Keeps of each batch the month's rows, with their times as UTC; collects those that cannot be billed.

    Attributes:
        bad_rows: Those of the months asked for, or with an unreadable time.
        earlier_bad_rows: Those of months that were asked for as earlier ones, with a readable time.
    """

    def __init__(self, duck: duckdb.DuckDBPyConnection) -> None:
        self._duck = duck
        self.bad_rows = NO_BAD_ROWS
        self.earlier_bad_rows = NO_BAD_ROWS
        self._earlier: defaultdict[Month, list[pa.Table]] = defaultdict(list)

    def earlier_bad_now(self, month: Month) -> pa.Table | None:
        """Return the bad rows so far of an earlier month, in `BAD_NOW_SCHEMA`."""
        found = self._earlier.get(month)
        return pa.concat_tables(found) if found else None

    def keep(
        self, batch: pa.RecordBatch, month: Month, schema: pa.Schema, *, earlier: bool = False
    ) -> pa.Table:
        """Return the batch's rows of the month, in a schema."""
        self._duck.register("batch", pa.Table.from_batches([batch]))
        bounds = {"start": month.start.replace(tzinfo=None), "end": month.end.replace(tzinfo=None)}
        table: pa.Table = self._duck.sql(_QUERY, params=bounds).to_arrow_table()
        self._duck.unregister("batch")
        if pc.any(table["bad"]).as_py():
            bad = table.filter(table["bad"])
            timed = pc.and_(bad["moment"].is_valid(), pa.scalar(earlier))
            of_month = bad.filter(timed)
            self.earlier_bad_rows = together(self.earlier_bad_rows, _bad_rows(of_month, f" in {month}"))
            if of_month.num_rows:
                self._earlier[month].append(
                    of_month.select(BAD_NOW_SCHEMA.names)
                    .set_column(3, "moment", of_month["moment"].cast(pa.timestamp("us")).cast(pa.int64()))
                    .cast(BAD_NOW_SCHEMA)
                )
            self.bad_rows = together(self.bad_rows, _bad_rows(bad.filter(pc.invert(timed))))
        kept = table.set_column(3, "created_at", table["moment"]).select(schema.names)
        return (kept if pc.all(table["good"]).as_py() else kept.filter(table["good"])).cast(schema)


def _bad_rows(bad: pa.Table, where: str = "") -> BadRows:
    examples = []
    for row in bad.slice(0, MAX_EXAMPLES).to_pylist():
        unreadable = f"created_at is {row['created_at'][:40]!r}, not an ISO 8601 time"
        examples.append(BadRow(str(row["id"]), (row["problem"] or unreadable) + where))
    return BadRows(bad.num_rows, tuple(examples))


def batches_of(
    connection: sqlite3.Connection, query: str, given: Mapping[str, Any] | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of `SqliteUsageSql.rows`."""
    # As bytes, which need not be text: `require_text` names the user whose id is none.
    connection.text_factory = bytes
    try:
        cursor = connection.execute(query, given or {})
        names = [name for name, *_ in cursor.description]
        while rows := cursor.fetchmany(_BATCH_ROWS):
            # Not zip(*rows), which takes twice as long.
            columns = [[row[number] for row in rows] for number in range(len(names))]
            arrays = [
                texts(each)
                if isinstance(each[0], bytes)
                else texts(None if value is None else str(value) for value in each).cast(pa.int64())
                for each in columns
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=names)
    finally:
        connection.text_factory = str
