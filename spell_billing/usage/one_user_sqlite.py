"""One user's usage and account in a SQLite file; text times are read by the rules of the freeze."""

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa

from spell_billing.core.drafting import Account
from spell_billing.core.errors import UsageError
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl, database_errors, unreachable
from spell_billing.usage.aggregate import DayUsage
from spell_billing.usage.duck import open_duckdb
from spell_billing.usage.one_user import (
    ACCOUNT_TEXTS,
    PLAN_TEXTS,
    TIMEOUT_SECONDS,
    Texts,
    UserMonth,
    account_of,
    took_too_long,
)
from spell_billing.usage.sqlite_sql import SqliteUsageSql
from spell_billing.usage.sqlite_times import MonthFilter
from spell_billing.usage.tables import (
    ACCOUNT_COLUMNS,
    ACCOUNTS_TABLE,
    PLAN_COLUMNS,
    PLANS_TABLE,
    USAGE_COLUMNS,
    USAGE_TABLE,
    Column,
    Columns,
    require_columns,
    texts,
)

_BATCH_ROWS = 50_000
_STEPS_BETWEEN_LOOKS = 10_000
_MEMORY_LIMIT_BYTES = 1 << 28
_DAY = "epoch_us(created_at) // 86400000000"
_EPOCH = date(1970, 1, 1).toordinal()
_LONGEST_NUMBER = 20
_LARGEST_NUMBER = 2**63 - 1
_WRITTEN = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("cost_cents", pa.int64()),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
    ]
)
# A column without a type holds an id as the integer or the text that was inserted; an index finds both. The
# cast then refuses another spelling: 007 is not user 7.
_IS = "{name} IN (:text, :number) AND CAST({name} AS TEXT) = :text"


class SqliteOneUser:
    """Reads from a SQLite file; implements `OneUser`.

    In this process, by Python's own copy of the library: the Arrow driver's must stay out of it (see
    `sqlite_reader`), and to start a process for each page would take longer than the page.
    """

    def __init__(self, url: DatabaseUrl) -> None:
        self._url = url

    def month(self, user_id: str, month: Month) -> UserMonth:
        """Count and add up the user's calls of a month; see `OneUser.month`."""
        days: dict[int, tuple[int, Decimal]] = {}
        with (
            self._connect() as connection,
            open_duckdb(Path(tempfile.gettempdir()), memory_limit_bytes=_MEMORY_LIMIT_BYTES) as duck,
        ):
            sql = SqliteUsageSql(self._columns(connection, USAGE_TABLE, USAGE_COLUMNS))
            months_rows = MonthFilter(duck, _WRITTEN)
            query = f"{sql.rows(month)} AND {_IS.format(name='user_id')}"
            for batch in _batches(connection.execute(query, _key(user_id))):
                duck.register("kept", months_rows.keep(batch, month))
                for day, calls, cost in duck.execute(
                    f"SELECT {_DAY} AS day, count(*), sum(cost_cents) FROM kept GROUP BY day"
                ).fetchall():
                    before = days.get(day, (0, Decimal(0)))
                    days[day] = before[0] + calls, exact_sum(before[1], Decimal(cost))
                duck.unregister("kept")
        return UserMonth(tuple(DayUsage(date.fromordinal(_EPOCH + day), *days[day]) for day in sorted(days)))

    def account(self, user_id: str) -> Account | None:
        """Give the user's account; see `OneUser.account`."""
        with self._connect() as connection:
            connection.execute("BEGIN")
            found = self._columns(connection, ACCOUNTS_TABLE, ACCOUNT_COLUMNS)
            accounts = _texts(connection, ACCOUNTS_TABLE, found, ACCOUNT_TEXTS, user_id=user_id)
            plan_id = next((row[-1] for row in accounts), None)
            plans: Texts = []
            found = self._columns(connection, PLANS_TABLE, ()) if plan_id is not None else {}
            if plan_id is not None and found:
                require_columns(self._url, PLANS_TABLE, found, PLAN_COLUMNS)
                plans = _texts(connection, PLANS_TABLE, found, PLAN_TEXTS, plan_id=plan_id)
        return account_of(accounts, plans)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        path = self._url.sqlite_path
        if path is None or not path.is_file():
            raise unreachable(self._url, "the file does not exist")
        name = f"file:{quote(str(path))}?mode=ro"
        ends_at = time.monotonic() + TIMEOUT_SECONDS
        try:
            with (
                database_errors(self._url),
                closing(
                    sqlite3.connect(name, uri=True, timeout=TIMEOUT_SECONDS, isolation_level=None)
                ) as connection,
            ):
                connection.set_progress_handler(lambda: time.monotonic() > ends_at, _STEPS_BETWEEN_LOOKS)
                yield connection
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise took_too_long(self._url) from error
            raise UsageError(
                f"Reading {self._url.redacted} ({self._url.setting}) failed: {error}.",
                remedy="Try it again when no other program holds the file; if it stays, check the file.",
            ) from error

    def _columns(self, connection: sqlite3.Connection, table: str, required: tuple[str, ...]) -> Columns:
        # Every id is read as text here, so none needs to be told from the others.
        found = {
            name.lower(): Column(kind.lower(), nullable=True)
            for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")
        }
        if required:
            require_columns(self._url, table, found, required)
        return found


def _key(value: str) -> dict[str, str | int | None]:
    is_number = len(value) <= _LONGEST_NUMBER and value.isascii() and value.removeprefix("-").isdecimal()
    number = int(value) if is_number else None
    # A larger one cannot stand in a column of numbers, nor be handed to the driver.
    return {
        "text": value,
        "number": number if number is not None and abs(number) <= _LARGEST_NUMBER else None,
    }


def _batches(cursor: sqlite3.Cursor) -> Iterator[pa.RecordBatch]:
    while rows := cursor.fetchmany(_BATCH_ROWS):
        ids, users, costs, moments, problems = zip(*rows, strict=True)
        yield pa.RecordBatch.from_arrays(
            [texts(ids), texts(users), pa.array(costs, pa.int64()), texts(moments), texts(problems)],
            names=["id", "user_id", "cost_cents", "created_at", "problem"],
        )


def _texts(
    connection: sqlite3.Connection,
    table: str,
    found: Columns,
    names: tuple[str, ...],
    **key: str,
) -> Texts:
    ((name, value),) = key.items()
    columns = ", ".join(f"CAST({each if each in found else 'NULL'} AS TEXT)" for each in names)
    query = f"SELECT {columns} FROM {table} WHERE {_IS.format(name=name)}"
    return connection.execute(query, _key(value)).fetchall()
