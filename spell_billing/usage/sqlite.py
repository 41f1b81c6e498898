"""The usage source in a SQLite file: whole cents only, text times read exactly."""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import duckdb
import pyarrow as pa

from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl, database_errors, unreachable
from spell_billing.usage.accounts import build_accounts
from spell_billing.usage.contract import (
    BadRow,
    BadRows,
    FrozenUsage,
    LateUsage,
    Manifest,
    OnProgress,
    OnWait,
    Outside,
    Past,
    SourceRules,
    Totals,
    counted,
    outside_of,
    together,
)
from spell_billing.usage.duck import open_duckdb
from spell_billing.usage.late import checked, compare_late_usage
from spell_billing.usage.manifest import FORMAT_VERSION
from spell_billing.usage.proof import ROWS_FILE, require_equal_totals
from spell_billing.usage.row_writer import RowWriter
from spell_billing.usage.sqlite_snapshot import SqliteSnapshot, open_sqlite_snapshot, read_texts
from spell_billing.usage.sqlite_sql import TIME_INDEXES, UNIQUE_COLUMNS, SqliteUsageSql
from spell_billing.usage.sqlite_times import MonthFilter
from spell_billing.usage.tables import (
    ACCOUNT_COLUMNS,
    ACCOUNT_OPTIONAL_COLUMNS,
    ACCOUNTS_TABLE,
    PLAN_COLUMNS,
    PLAN_OPTIONAL_COLUMNS,
    PLANS_TABLE,
    USAGE_COLUMNS,
    USAGE_TABLE,
    Column,
    Columns,
    require_columns,
)
from spell_billing.usage.unique import Uniqueness, columns_to_prove


class SqliteUsage:
    """Reads usage and accounts from a SQLite file; implements `UsageSource`."""

    def __init__(self, url: DatabaseUrl, rules: SourceRules) -> None:
        self._url = url
        # The names of columns have no case here.
        column = rules.dedupe_column
        self._rules = replace(rules, dedupe_column=column.lower() if column else None)

    def freeze(
        self,
        month: Month,
        directory: Path,
        *,
        late_for: Sequence[FrozenUsage],
        past: Past | None = None,
        on_progress: OnProgress | None = None,
        on_wait: OnWait | None = None,  # noqa: ARG002 - a file is never behind
    ) -> Manifest:
        """Write the month's rows as Parquet; see `UsageSource.freeze`."""
        with self._connect() as connection:
            columns = self._columns(connection, USAGE_TABLE, self._usage_columns)
            guaranteed = _guaranteed(connection)
        sql = SqliteUsageSql(columns)
        schema = _written_schema(sql)
        path = directory / ROWS_FILE
        with open_sqlite_snapshot(self._url) as snapshot, open_duckdb(directory) as duck:
            frozen_at = datetime.now(UTC)
            control = _control(snapshot, sql.totals(month, every_row=True))
            timeless = _timeless(snapshot, sql, month)
            months_rows = MonthFilter(duck, schema)
            unique = Uniqueness(
                directory,
                columns_to_prove(columns, guaranteed, self._rules),
                lambda column, of: _values(snapshot, sql, duck, column, of),
            )
            with (
                RowWriter(
                    path,
                    schema,
                    shape=lambda batch: months_rows.keep(batch, month),
                    on_progress=counted(control.calls, on_progress),
                ) as writer,
                snapshot.stream(sql.rows(month)) as batches,
            ):
                for batch in batches:
                    writer.put(batch)
            late = compare_late_usage(
                late_for,
                directory,
                lambda earlier: _current_rows(snapshot, sql, months_rows, earlier),
                scale=0,
                bad_now=months_rows.earlier_bad_ids,
            )
            bad_rows = together(months_rows.bad_rows, timeless)
            if bad_rows.count:
                control = _control(snapshot, sql.totals(month))
            without_id = unique.require(month, path)
            unique.require_changed(late)
            outside = _outside(snapshot, sql, frozen_at, past)
        if bad_rows.count == 0:
            require_equal_totals(month, frozen=writer.totals, control=control)
        return Manifest(
            format_version=FORMAT_VERSION,
            month=month,
            frozen_at=frozen_at,
            backend=self._url.backend,
            cost_scale=0,
            frozen=writer.totals,
            control=control,
            files=(writer.file,),
            late=late,
            late_checked=checked(late_for),
            bad_rows=bad_rows,
            earlier_bad_rows=months_rows.earlier_bad_rows,
            without_id=without_id,
            outside=outside,
        )

    def supplement(
        self,
        frozen: FrozenUsage,
        directory: Path,
        *,
        recorded: Sequence[FrozenUsage],
        users: Collection[str],
    ) -> LateUsage | None:
        """Write what users have now beyond what was frozen; see `UsageSource.supplement`."""
        with self._connect() as connection:
            columns = self._columns(connection, USAGE_TABLE, self._usage_columns)
            guaranteed = _guaranteed(connection)
        sql = SqliteUsageSql(columns)
        with open_sqlite_snapshot(self._url) as snapshot, open_duckdb(directory) as duck:
            rows = MonthFilter(duck, _written_schema(sql))
            unique = Uniqueness(
                directory,
                columns_to_prove(columns, guaranteed, self._rules),
                lambda column, of: _values(snapshot, sql, duck, column, of),
            )
            late = compare_late_usage(
                [frozen],
                directory,
                lambda month: _current_rows(snapshot, sql, rows, month),
                scale=0,
                recorded=recorded,
                users=users,
            )
            unique.require_changed(late)
            return late

    def accounts(self, users: Collection[str] | None = None) -> pa.Table:
        """Read billing accounts with their plans; see `UsageSource.accounts`."""
        with self._connect() as connection:
            connection.execute("BEGIN")
            found = self._columns(connection, ACCOUNTS_TABLE, ACCOUNT_COLUMNS)
            names = ACCOUNT_COLUMNS + ACCOUNT_OPTIONAL_COLUMNS
            accounts = read_texts(connection, ACCOUNTS_TABLE, found, names, users)
            found = self._columns(connection, PLANS_TABLE, ())
            if found:
                require_columns(self._url, PLANS_TABLE, found, PLAN_COLUMNS)
            plans = read_texts(connection, PLANS_TABLE, found, PLAN_COLUMNS + PLAN_OPTIONAL_COLUMNS)
        return build_accounts(accounts, plans)

    @property
    def _usage_columns(self) -> tuple[str, ...]:
        return (*USAGE_COLUMNS, *filter(None, [self._rules.dedupe_column]))

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        path = self._url.sqlite_path
        if path is None or not path.is_file():
            raise unreachable(self._url, "the file does not exist")
        with (
            database_errors(self._url),
            closing(
                sqlite3.connect(
                    f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30, isolation_level=None
                )
            ) as connection,
        ):
            yield connection

    def _columns(self, connection: sqlite3.Connection, table: str, required: tuple[str, ...]) -> Columns:
        described = connection.execute(f"PRAGMA table_info({table})").fetchall()
        keys = sum(1 for *_, key in described if key)
        found = {
            # Only INTEGER PRIMARY KEY (the rowid) holds integers whatever is inserted.
            name.lower(): Column(kind.lower(), nullable=not (kind.lower() == "integer" and key == keys == 1))
            for _, name, kind, _, _, key in described
        }
        if required:
            require_columns(self._url, table, found, required)
        return found


def _guaranteed(connection: sqlite3.Connection) -> set[str]:
    rowid = [
        name for _, name, kind, _, _, key in connection.execute(f"PRAGMA table_info({USAGE_TABLE})") if key
    ]
    found = {name for (name,) in connection.execute(UNIQUE_COLUMNS.format(table=USAGE_TABLE))}
    # The key of a single column is unique, be it the rowid, which has no index, or not.
    return found | ({rowid[0].lower()} if len(rowid) == 1 else set())


def _outside(snapshot: SqliteSnapshot, sql: SqliteUsageSql, now: datetime, past: Past | None) -> Outside:
    if past is None:
        return Outside()
    (found,) = snapshot.rows(sql.outside(now=now, first=past.first.start))
    calls = {str(month): _control(snapshot, sql.totals(month)).calls for month, _ in past.billed}
    return outside_of(past, calls, future=found["future"], before_first=found["before_first"])


def _control(snapshot: SqliteSnapshot, query: str) -> Totals:
    (row,) = snapshot.rows(query)
    return Totals(row["calls"], Decimal((row["high"] << 32) + row["low"]))


def _timeless(snapshot: SqliteSnapshot, sql: SqliteUsageSql, month: Month) -> BadRows:
    (order,) = snapshot.rows(TIME_INDEXES)
    if order["indexes"] and not snapshot.rows(sql.may_be_timeless)[0]["found"]:
        return BadRows(0, ())
    rows = snapshot.rows(sql.timeless(month))
    examples = tuple(BadRow(row["id"], row["problem"]) for row in rows)
    return BadRows(rows[0]["total"] if rows else 0, examples)


@contextmanager
def _current_rows(
    snapshot: SqliteSnapshot, sql: SqliteUsageSql, rows: MonthFilter, month: Month
) -> Iterator[pa.RecordBatchReader]:
    schema = pa.schema([("user_id", pa.string()), ("calls", pa.int64()), ("cost_cents", pa.int64())])

    def kept(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            table = rows.keep(batch, month, earlier=True)
            ones = table["user_id"].is_valid().cast(pa.int64())
            columns = [table["user_id"], ones, table["cost_cents"]]
            yield from pa.Table.from_arrays(columns, schema=schema).to_batches()

    with snapshot.stream(sql.rows(month)) as batches:
        yield pa.RecordBatchReader.from_batches(schema, kept(batches))


@contextmanager
def _values(
    snapshot: SqliteSnapshot, sql: SqliteUsageSql, duck: duckdb.DuckDBPyConnection, column: str, month: Month
) -> Iterator[pa.RecordBatchReader]:
    kept = _written_schema(sql).set(0, pa.field("id", pa.string()))
    rows = MonthFilter(duck, kept)
    schema = pa.schema([("value", pa.string())])

    def values(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from pa.Table.from_arrays([rows.keep(batch, month)["id"]], schema=schema).to_batches()

    with snapshot.stream(sql.rows(month, identity=column)) as batches:
        yield pa.RecordBatchReader.from_batches(schema, values(batches))


def _written_schema(sql: SqliteUsageSql) -> pa.Schema:
    return pa.schema(
        [
            pa.field("id", pa.int64() if sql.has_integer_ids else pa.string()),
            pa.field("user_id", pa.string()),
            pa.field("cost_cents", pa.int64()),
            pa.field("created_at", pa.timestamp("us", tz="UTC")),
        ]
    )
