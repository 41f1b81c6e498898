"""One user's usage and account in PostgreSQL: one query each, with an index where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from typing import Any

import psycopg
from psycopg.errors import QueryCanceled

from spell_billing.core.drafting import Account
from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl, database_errors
from spell_billing.usage.aggregate import DayUsage
from spell_billing.usage.amounts import exact
from spell_billing.usage.one_user import (
    ACCOUNT_TEXTS,
    PLAN_TEXTS,
    TIMEOUT_SECONDS,
    Texts,
    UserMonth,
    account_of,
    took_too_long,
)
from spell_billing.usage.postgres_catalog import COLUMNS_QUERY
from spell_billing.usage.postgres_sql import UsageSql
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
)

_Connection = psycopg.Connection[tuple[Any, ...]]

# The value takes the column's own type, so that an index serves; the text then refuses another spelling of
# it: 007 is not user 7.
_IS = '{name} = %(value)s AND {name}::text = %(text)s::text COLLATE "C"'


class PostgresOneUser:
    """Reads from PostgreSQL 14 or later; implements `OneUser`."""

    def __init__(self, url: DatabaseUrl) -> None:
        self._url = url

    def month(self, user_id: str, month: Month) -> UserMonth:
        """Count and add up the user's calls of a month; see `OneUser.month`."""
        with self._connect() as connection:
            sql = UsageSql(self._columns(connection, USAGE_TABLE, USAGE_COLUMNS))
            rows = _rows(connection, sql.user_days(month, _IS.format(name="user_id")), user_id)
        return UserMonth(
            tuple(DayUsage(date.fromisoformat(day), calls, exact(cost)) for day, calls, cost in rows)
        )

    def account(self, user_id: str) -> Account | None:
        """Give the user's account; see `OneUser.account`."""
        with self._connect() as connection:
            found = self._columns(connection, ACCOUNTS_TABLE, ACCOUNT_COLUMNS)
            accounts = _texts(connection, ACCOUNTS_TABLE, found, ACCOUNT_TEXTS, user_id=user_id)
            plan_id = next((row[-1] for row in accounts), None)
            plans: Texts = []
            found = self._columns(connection, PLANS_TABLE, ()) if plan_id is not None else {}
            if plan_id is not None and found:
                require_columns(self._url, PLANS_TABLE, found, PLAN_COLUMNS)
                plans = _texts(connection, PLANS_TABLE, found, PLAN_TEXTS, plan_id=plan_id)
        return account_of(accounts, plans)

    def _columns(self, connection: _Connection, table: str, required: tuple[str, ...]) -> Columns:
        rows = connection.execute(COLUMNS_QUERY.format(table=table).encode())
        found = {name: Column(kind, nullable) for name, kind, nullable in rows}
        if required:
            require_columns(self._url, table, found, required)
        return found

    @contextmanager
    def _connect(self) -> Iterator[_Connection]:
        try:
            with (
                database_errors(self._url),
                # A pooler gives its session to others: neither settings nor prepared statements may stay.
                psycopg.connect(self._url.libpq_dsn, prepare_threshold=None) as connection,
            ):
                connection.read_only = True
                connection.execute("SET LOCAL timezone = 'UTC'")
                connection.execute("SET LOCAL row_security = off")
                connection.execute(f"SET LOCAL statement_timeout = {int(TIMEOUT_SECONDS * 1000)}".encode())
                yield connection
        except QueryCanceled as error:
            raise took_too_long(self._url) from error
        except psycopg.Error as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise UsageError(
                f"Reading {self._url.redacted} ({self._url.setting}) failed: {reason}.",
                remedy="Grant SELECT on the platform's tables to the user of the URL, and BYPASSRLS if they "
                "have row security; if that is not it, ask who runs the database.",
            ) from error


def _rows(connection: _Connection, query: str, value: str) -> list[tuple[Any, ...]]:
    # A text that cannot even be a value of the column's type, as `abc` for a uuid, is nobody's.
    with suppress(psycopg.DataError):
        return connection.execute(query.encode(), {"value": value, "text": value}).fetchall()
    return []


def _texts(connection: _Connection, table: str, found: Columns, names: tuple[str, ...], **key: str) -> Texts:
    ((name, value),) = key.items()
    columns = ", ".join(f"{each if each in found else 'NULL'}::text" for each in names)
    return _rows(connection, f"SELECT {columns} FROM {table} WHERE {_IS.format(name=name)}", value)
