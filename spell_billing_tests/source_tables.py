"""The platform's tables in a test database."""

import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest


@dataclass
class SourceTables:
    """The platform's tables in a test database, and the ways to fill them.

    Times are given as aware datetimes (written as the table's type says) or as text, verbatim. Of a lake the
    tables are kept in a DuckDB file beside it, and written as Parquet files after each change.
    """

    url: str
    naive_times: bool

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    @property
    def is_lake(self) -> bool:
        return self.url.startswith(("duckdb", "spark"))

    @property
    def folder(self) -> Path:
        """Where a lake's Parquet files are: a folder for each table."""
        return Path(self.url.removeprefix("duckdb://").rpartition("folder=")[2])

    def connect(self) -> Any:
        """Open a driver connection with implicit transactions; the caller commits and closes."""
        if self.is_lake:
            connection = duckdb.connect(str(self.folder.with_name("platform.duckdb")))
            connection.execute("SET TimeZone = 'UTC'")
            return connection.begin()
        if self.is_sqlite:
            return sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=30)
        return psycopg.connect(self.url)

    def execute(self, *statements: str) -> None:
        connection = self.connect()
        try:
            for statement in statements:
                connection.execute(statement)
            self._commit(connection)
        finally:
            connection.close()

    def calls(self, rows: Iterable[tuple[Any, Any, Any]], *, first_id: int | None = None) -> None:
        """Insert calls as (user_id, cost_cents, created_at); ids follow on, or count from `first_id`."""
        values = [(user, self._cost(cost), self._time(moment)) for user, cost, moment in rows]
        columns = "user_id, cost_cents, created_at"
        marks = ", ".join([self._mark] * 3)
        if first_id is not None:
            columns, marks = f"id, {columns}", f"{self._mark}, {marks}"
            values = [(first_id + index, *value) for index, value in enumerate(values)]  # type: ignore[misc]
        self._many(f"INSERT INTO usage_counters ({columns}) VALUES ({marks})", values)

    def accounts(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert billing accounts given as column -> value."""
        self._rows("billing_accounts", rows)

    def plans(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert billing plans given as column -> value."""
        self._rows("billing_plans", rows)

    def _rows(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            marks = ", ".join(self._mark for _ in row)
            self._many(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", [tuple(row.values())])

    def _many(self, statement: str, values: list[Any]) -> None:
        connection = self.connect()
        try:
            cursor = connection if self.is_lake else connection.cursor()
            cursor.executemany(statement, values)
            self._commit(connection)
        finally:
            connection.close()

    @property
    def _mark(self) -> str:
        return "?" if self.is_sqlite or self.is_lake else "%s"

    def _commit(self, connection: Any) -> None:
        connection.commit()
        if not self.is_lake:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        for (name,) in connection.execute("SELECT table_name FROM information_schema.tables").fetchall():
            place = self.folder / name / "part-0.parquet"
            place.parent.mkdir(parents=True)
            connection.execute(f"COPY (FROM {name}) TO '{place}' (FORMAT parquet)")

    def _cost(self, cost: Any) -> Any:
        return str(cost) if self.is_sqlite and isinstance(cost, Decimal) else cost

    def _time(self, moment: Any) -> Any:
        if not isinstance(moment, datetime):
            return moment
        if self.is_sqlite:
            return moment.replace(tzinfo=None).isoformat(" ") if self.naive_times else moment.isoformat()
        return moment.replace(tzinfo=None) if self.naive_times else moment


_SQLITE_TYPES = {"uuid": "TEXT", "timestamptz": "TEXT", "timestamp": "TEXT", "text": "TEXT"}


@pytest.fixture(scope="session")
def make_source_tables() -> Callable[..., SourceTables]:
    """Give a function that creates the platform's tables in a database and returns `SourceTables`.

    `make_source_tables(url, user_id="text", cost_cents="bigint", created_at="timestamptz", id="bigint",
    accounts_user_id=None, accounts=True, plans=True, not_null=True)`; types are PostgreSQL's and become
    their nearest kin in SQLite. Accounts have every optional column.
    """

    def make(
        url: str,
        *,
        user_id: str = "text",
        cost_cents: str = "bigint",
        created_at: str = "timestamptz",
        id: str = "bigint",  # noqa: A002 - the column's name
        accounts_user_id: str | None = None,
        accounts: bool = True,
        plans: bool = True,
        not_null: bool = True,
    ) -> SourceTables:
        source = SourceTables(url, naive_times=created_at == "timestamp")

        def kind(name: str) -> str:
            if source.is_sqlite:
                return _SQLITE_TYPES.get(name, "NUMERIC" if name.startswith("numeric") else "INTEGER")
            return name

        must = "NOT NULL" if not_null else ""
        if source.is_lake:
            source.execute("CREATE SEQUENCE ids")
        generated = {
            "uuid": "uuid PRIMARY KEY DEFAULT gen_random_uuid()",
            "bigint": "bigint PRIMARY KEY DEFAULT nextval('ids')"
            if source.is_lake
            else "bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        }.get(id, f"{id} PRIMARY KEY")
        own_id = f"{kind(id)} PRIMARY KEY" if source.is_sqlite else generated
        source.execute(
            f"CREATE TABLE usage_counters (id {own_id}, user_id {kind(user_id)} {must}, "
            f"cost_cents {kind(cost_cents)} {must}, created_at {kind(created_at)} {must}, endpoint text)"
        )
        if not source.is_lake:
            source.execute("CREATE INDEX usage_counters_created_at ON usage_counters (created_at)")
        if accounts:
            source.execute(
                f"CREATE TABLE billing_accounts (user_id {kind(accounts_user_id or user_id)} PRIMARY KEY, "
                "stripe_customer_id text, currency text DEFAULT 'usd', email text, plan_id text, "
                f"collection text, net_days {kind('bigint')}, po_number text, footer text)"
            )
        if plans:
            source.execute(
                "CREATE TABLE billing_plans (plan_id text PRIMARY KEY, name text, included_cents bigint)"
            )
        return source

    return make
