"""The usage source in a SQLite file: whole cents only, text times read exactly."""

import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa

from spell_billing.core.month import Month
from spell_billing.databases import DatabaseUrl
from spell_billing.usage.accounts import build_accounts
from spell_billing.usage.aggregate import day_usages
from spell_billing.usage.contract import (
    BadRow,
    BadRows,
    DayUsage,
    FrozenUsage,
    LateUsage,
    Manifest,
    OnProgress,
    OnWait,
    Outside,
    Past,
    SourceRules,
    Totals,
    outside_of,
    together,
)
from spell_billing.usage.duck import open_duckdb, own_errors
from spell_billing.usage.late import checked, compare_late_usage
from spell_billing.usage.manifest import FORMAT_VERSION
from spell_billing.usage.proof import ROWS_FILE, require_equal_totals
from spell_billing.usage.row_writer import counted, write_rows
from spell_billing.usage.sqlite_snapshot import SqliteSnapshot, open_sqlite_snapshot
from spell_billing.usage.sqlite_sql import IS_USER, TIME_INDEXES, UNIQUE_COLUMNS, SqliteUsageSql, user_values
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
    texts,
)
from spell_billing.usage.unique import Uniqueness, columns_to_prove

_PAGE_MEMORY_BYTES = 1 << 28


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
        path = directory / ROWS_FILE
        with open_sqlite_snapshot(self._url) as snapshot, open_duckdb(directory) as duck:
            frozen_at = datetime.now(UTC)
            sql, unique = self._queries(snapshot, duck, directory)
            schema = _written_schema(sql)
            control = _control(snapshot, sql.totals(month, every_row=True))
            timeless = _timeless(snapshot, sql, month)
            months_rows = MonthFilter(duck, schema)
            file, frozen = write_rows(
                path,
                schema,
                snapshot.stream(sql.rows(month)),
                shape=lambda batch: months_rows.keep(batch, month),
                on_progress=counted(control.calls, on_progress),
            )
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
            require_equal_totals(month, frozen=frozen, control=control)
        return Manifest(
            format_version=FORMAT_VERSION,
            month=month,
            frozen_at=frozen_at,
            backend=self._url.backend,
            cost_scale=0,
            frozen=frozen,
            control=control,
            files=(file,),
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
        with open_sqlite_snapshot(self._url) as snapshot, open_duckdb(directory) as duck:
            sql, unique = self._queries(snapshot, duck, directory)
            rows = MonthFilter(duck, _written_schema(sql))
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
        with open_sqlite_snapshot(self._url, self._rules.longest_query) as snapshot:
            found = self._columns(snapshot, ACCOUNTS_TABLE, ACCOUNT_COLUMNS)
            names = ACCOUNT_COLUMNS + ACCOUNT_OPTIONAL_COLUMNS
            accounts = _texts(snapshot, ACCOUNTS_TABLE, found, names, users)
            found = self._columns(snapshot, PLANS_TABLE, ())
            if found:
                require_columns(self._url, PLANS_TABLE, found, PLAN_COLUMNS)
            plans = _texts(snapshot, PLANS_TABLE, found, PLAN_COLUMNS + PLAN_OPTIONAL_COLUMNS)
        return build_accounts(accounts, plans)

    def user_days(self, user_id: str, month: Month) -> tuple[DayUsage, ...]:
        """Add up one user's calls of a month; see `UsageSource.user_days`."""
        directory = Path(tempfile.gettempdir())
        with (
            open_sqlite_snapshot(self._url, self._rules.longest_query) as snapshot,
            open_duckdb(directory, memory_limit_bytes=_PAGE_MEMORY_BYTES) as duck,
            open_duckdb(directory, memory_limit_bytes=_PAGE_MEMORY_BYTES) as adding,
        ):
            sql = SqliteUsageSql(self._columns(snapshot, USAGE_TABLE, USAGE_COLUMNS))
            schema = _written_schema(sql)
            rows = MonthFilter(duck, schema)
            batches = snapshot.stream(f"{sql.rows(month)} AND {IS_USER}", user_values(user_id))
            kept = (part for batch in batches for part in rows.keep(batch, month).to_batches())
            with own_errors(pa.RecordBatchReader.from_batches(schema, kept)) as reader:
                adding.register("kept", reader)
                return tuple(day_usages(adding, "FROM kept"))

    @property
    def _usage_columns(self) -> tuple[str, ...]:
        return (*USAGE_COLUMNS, *filter(None, [self._rules.dedupe_column]))

    def _queries(
        self, snapshot: SqliteSnapshot, duck: duckdb.DuckDBPyConnection, directory: Path
    ) -> tuple[SqliteUsageSql, Uniqueness]:
        """Return the queries that fit the table, and the proof that no row counts twice."""
        columns = self._columns(snapshot, USAGE_TABLE, self._usage_columns)
        sql = SqliteUsageSql(columns)
        to_prove = columns_to_prove(columns, _guaranteed(snapshot), self._rules)
        return sql, Uniqueness(
            directory, to_prove, lambda column, of: _values(snapshot, sql, duck, column, of)
        )

    def _columns(self, snapshot: SqliteSnapshot, table: str, required: tuple[str, ...]) -> Columns:
        described = snapshot.rows(f"PRAGMA table_info({table})")
        keys = sum(1 for each in described if each["pk"])
        found = {
            # Only INTEGER PRIMARY KEY (the rowid) holds integers whatever is inserted.
            each["name"].lower(): Column(
                each["type"].lower(),
                nullable=not (each["type"].lower() == "integer" and each["pk"] == keys == 1),
            )
            for each in described
        }
        if required:
            require_columns(self._url, table, found, required)
        return found


def _guaranteed(snapshot: SqliteSnapshot) -> set[str]:
    keys = [each["name"] for each in snapshot.rows(f"PRAGMA table_info({USAGE_TABLE})") if each["pk"]]
    found = {each["name"] for each in snapshot.rows(UNIQUE_COLUMNS.format(table=USAGE_TABLE))}
    # The key of a single column is unique, be it the rowid, which has no index, or not.
    return found | ({keys[0].lower()} if len(keys) == 1 else set())


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

    def kept() -> Iterator[pa.RecordBatch]:
        for batch in snapshot.stream(sql.rows(month)):
            table = rows.keep(batch, month, earlier=True)
            ones = table["user_id"].is_valid().cast(pa.int64())
            columns = [table["user_id"], ones, table["cost_cents"]]
            yield from pa.Table.from_arrays(columns, schema=schema).to_batches()

    yield pa.RecordBatchReader.from_batches(schema, kept())


@contextmanager
def _values(
    snapshot: SqliteSnapshot, sql: SqliteUsageSql, duck: duckdb.DuckDBPyConnection, column: str, month: Month
) -> Iterator[pa.RecordBatchReader]:
    rows = MonthFilter(duck, _written_schema(sql).set(0, pa.field("id", pa.string())))
    schema = pa.schema([("value", pa.string())])

    def values() -> Iterator[pa.RecordBatch]:
        for batch in snapshot.stream(sql.rows(month, identity=column)):
            yield from pa.Table.from_arrays([rows.keep(batch, month)["id"]], schema=schema).to_batches()

    yield pa.RecordBatchReader.from_batches(schema, values())


def _written_schema(sql: SqliteUsageSql) -> pa.Schema:
    return pa.schema(
        [
            pa.field("id", pa.int64() if sql.has_integer_ids else pa.string()),
            pa.field("user_id", pa.string()),
            pa.field("cost_cents", pa.int64()),
            pa.field("created_at", pa.timestamp("us", tz="UTC")),
        ]
    )


def _texts(
    snapshot: SqliteSnapshot,
    table: str,
    found: Columns,
    names: tuple[str, ...],
    users: Collection[str] | None = None,
) -> pa.Table:
    columns = ", ".join(f"CAST({name if name in found else 'NULL'} AS TEXT) AS {name}" for name in names)
    which = "" if users is None else " WHERE CAST(user_id AS TEXT) IN (SELECT value FROM json_each(?))"
    given = () if users is None else (json.dumps(sorted(users)),)
    rows = snapshot.rows(f"SELECT {columns} FROM {table}{which}", given) if found else []
    return pa.table({name: texts(row[name] for row in rows) for name in names})
