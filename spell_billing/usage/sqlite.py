"""The usage source in a SQLite file: whole cents only, text times read exactly."""

import json
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow as pa

from spell_billing.core.drafting import Account
from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import (
    SQLITE_BUSY_TIMEOUT_SECONDS,
    DatabaseUrl,
    database_errors,
    unreachable,
)
from spell_billing.usage.accounts import account_of, build_accounts
from spell_billing.usage.contract import (
    ONE_USER_SECONDS,
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
    UserMonth,
    outside_of,
    together,
)
from spell_billing.usage.duck import UTC_DAY, open_duckdb
from spell_billing.usage.late import checked, compare_late_usage
from spell_billing.usage.manifest import FORMAT_VERSION
from spell_billing.usage.row_writer import ROWS_FILE, RowWriter, require_equal_totals
from spell_billing.usage.sqlite_rows import (
    batches_of,
    column_values,
    current_rows,
    sums_of_month,
    written_schema,
)
from spell_billing.usage.sqlite_sql import IS_USER, UNIQUE_COLUMNS, SqliteUsageSql, of_user
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
    took_too_long,
)
from spell_billing.usage.unique import Uniqueness, columns_to_prove

_STEPS_BETWEEN_LOOKS = 10_000


class SqliteUsage:
    """Reads usage and accounts from a SQLite file; implements `UsageSource`.

    By Python's own copy of the library, as the ledger does: with a second one in the process each breaks
    the other's locks on a file that both have open (sqlite.org, "How To Corrupt An SQLite Database File",
    2.2.1).
    """

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
        frozen_at = datetime.now(UTC)
        path = directory / ROWS_FILE
        with self._snapshot() as connection, open_duckdb(directory) as duck:
            sql, unique = self._queries(connection, duck, directory)
            control = _control(connection, sql, month)
            timeless = _timeless(connection, sql, month)
            schema = written_schema(sql)
            months_rows = MonthFilter(duck, schema)
            with RowWriter(
                path,
                schema,
                shape=lambda batch: months_rows.keep(batch, month),
                on_progress=on_progress,
                expected=control.calls,
            ) as writer:
                for batch in batches_of(connection, sql.rows(month)):
                    writer.put(batch)
            late = compare_late_usage(
                late_for,
                directory,
                lambda earlier: current_rows(connection, sql, months_rows, earlier),
                scale=0,
                bad_now=months_rows.earlier_bad_ids,
            )
            bad_rows = together(months_rows.bad_rows, timeless)
            if not bad_rows.count:
                # SQLite may count a row with a time that the exact reading refuses.
                require_equal_totals(month, frozen=writer.totals, control=control)
            unique.require_changed(late)
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
                without_id=unique.require(month, path),
                outside=_outside(connection, sql, frozen_at, past),
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
        with self._snapshot() as connection, open_duckdb(directory) as duck:
            sql, unique = self._queries(connection, duck, directory)
            rows = MonthFilter(duck, written_schema(sql))
            late = compare_late_usage(
                [frozen],
                directory,
                lambda month: current_rows(connection, sql, rows, month),
                scale=0,
                recorded=recorded,
                users=users,
            )
            unique.require_changed(late)
            return late

    def accounts(self, users: Collection[str] | None = None) -> pa.Table:
        """Read billing accounts with their plans; see `UsageSource.accounts`."""
        with self._snapshot() as connection:
            if users is None:
                return self._accounts(connection)
            which = " WHERE CAST(user_id AS TEXT) IN (SELECT value FROM json_each(:users))"
            return self._accounts(connection, which, {"users": json.dumps(sorted(users))})

    def so_far(self, month: Month) -> dict[str, Totals]:
        """Count and add up a month's calls by user; see `UsageSource.so_far`."""
        with self._snapshot() as connection:
            sql = SqliteUsageSql(self._columns(connection, USAGE_TABLE, USAGE_COLUMNS))
            return sums_of_month(connection, sql, month, key="user_id")

    def user_month(self, user_id: str, month: Month) -> UserMonth:
        """Count and add up one user's calls of a month; see `UsageSource.user_month`."""
        with self._snapshot(seconds=ONE_USER_SECONDS) as connection:
            sql = SqliteUsageSql(self._columns(connection, USAGE_TABLE, USAGE_COLUMNS))
            sums = sums_of_month(connection, sql, month, key=UTC_DAY, user_id=user_id)
        return UserMonth(tuple(DayUsage(day, sums[day].calls, sums[day].cost_cents) for day in sorted(sums)))

    def account(self, user_id: str) -> Account | None:
        """Read one user's billing account; see `UsageSource.account`."""
        with self._snapshot(seconds=ONE_USER_SECONDS) as connection:
            return account_of(self._accounts(connection, f" WHERE {IS_USER}", of_user(user_id)))

    def _accounts(
        self, connection: sqlite3.Connection, which: str = "", given: Mapping[str, Any] | None = None
    ) -> pa.Table:
        found = self._columns(connection, ACCOUNTS_TABLE, ACCOUNT_COLUMNS)
        names = ACCOUNT_COLUMNS + ACCOUNT_OPTIONAL_COLUMNS
        accounts = _texts(connection, ACCOUNTS_TABLE + which, found, names, given)
        found = self._columns(connection, PLANS_TABLE, PLAN_COLUMNS, optional=True)
        plans = _texts(connection, PLANS_TABLE, found, PLAN_COLUMNS + PLAN_OPTIONAL_COLUMNS)
        return build_accounts(accounts, plans)

    @contextmanager
    def _snapshot(self, *, seconds: float | None = None) -> Iterator[sqlite3.Connection]:
        """Open a read transaction whose every query sees the same moment, for a number of seconds at most."""
        path = self._url.sqlite_path
        if path is None or not path.is_file():
            raise unreachable(self._url, "the file does not exist")
        try:
            with (
                database_errors(self._url),
                closing(
                    sqlite3.connect(
                        f"file:{quote(str(path))}?mode=ro",
                        uri=True,
                        timeout=SQLITE_BUSY_TIMEOUT_SECONDS if seconds is None else seconds,
                        isolation_level=None,
                        # DuckDB takes batches from a thread of its own, one at a time.
                        check_same_thread=False,
                    )
                ) as connection,
            ):
                if seconds is not None:
                    end = time.monotonic() + seconds
                    connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS_BETWEEN_LOOKS)
                connection.execute("BEGIN")
                yield connection
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise took_too_long(self._url) from error
            raise UsageError(
                f"Reading {self._url.redacted} ({self._url.setting}) failed: {error}.",
                remedy="Run it again when no other program holds the file; if it stays, check the file.",
            ) from error

    def _queries(
        self, connection: sqlite3.Connection, duck: duckdb.DuckDBPyConnection, directory: Path
    ) -> tuple[SqliteUsageSql, Uniqueness]:
        """Return the queries that fit the table, and the proof that no row counts twice."""
        required = (*USAGE_COLUMNS, *filter(None, [self._rules.dedupe_column]))
        columns = self._columns(connection, USAGE_TABLE, required)
        sql = SqliteUsageSql(columns)
        to_prove = columns_to_prove(columns, _guaranteed(connection), self._rules)
        return sql, Uniqueness(
            directory, to_prove, lambda column, month: column_values(connection, sql, duck, column, month)
        )

    def _columns(
        self, connection: sqlite3.Connection, table: str, required: tuple[str, ...], *, optional: bool = False
    ) -> Columns:
        described = connection.execute(f"PRAGMA table_info({table})").fetchall()
        keys = sum(1 for *_, key in described if key)
        found = {
            # Only INTEGER PRIMARY KEY (the rowid) holds integers whatever is inserted.
            name.lower(): Column(kind.lower(), nullable=not (kind.lower() == "integer" and key == keys == 1))
            for _, name, kind, _, _, key in described
        }
        if found or not optional:
            require_columns(self._url, table, found, required)
        return found


def _texts(
    connection: sqlite3.Connection,
    source: str,
    found: Columns,
    names: tuple[str, ...],
    given: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Read columns as text, null where the table has no such column."""
    columns = ", ".join(f"CAST({name if name in found else 'NULL'} AS TEXT)" for name in names)
    rows = connection.execute(f"SELECT {columns} FROM {source}", given or {}).fetchall() if found else []
    values = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table({name: texts(column) for name, column in zip(names, values, strict=True)})


def _guaranteed(connection: sqlite3.Connection) -> set[str]:
    rowid = [
        name for _, name, kind, _, _, key in connection.execute(f"PRAGMA table_info({USAGE_TABLE})") if key
    ]
    found = {name for (name,) in connection.execute(UNIQUE_COLUMNS.format(table=USAGE_TABLE))}
    # The key of a single column is unique, be it the rowid, which has no index, or not.
    return found | ({rowid[0].lower()} if len(rowid) == 1 else set())


def _outside(
    connection: sqlite3.Connection, sql: SqliteUsageSql, now: datetime, past: Past | None
) -> Outside:
    if past is None:
        return Outside()
    future, before_first = connection.execute(sql.outside(now=now, first=past.first.start)).fetchone()
    calls = {str(month): _control(connection, sql, month).calls for month, _ in past.billed}
    return outside_of(past, calls, future=future, before_first=before_first)


def _control(connection: sqlite3.Connection, sql: SqliteUsageSql, month: Month) -> Totals:
    calls, high, low = connection.execute(sql.totals(month)).fetchone()
    return Totals(calls, Decimal((high << 32) + low))


def _timeless(connection: sqlite3.Connection, sql: SqliteUsageSql, month: Month) -> BadRows:
    rows = connection.execute(sql.timeless(month)).fetchall()
    return BadRows(rows[0][2] if rows else 0, tuple(BadRow(row_id, problem) for row_id, problem, _ in rows))
