"""The platform's tables in a test database."""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg


@dataclass
class SourceTables:
    """The platform's tables in a test database, and the ways to fill them.

    Times are given as aware datetimes (written as the table's type says) or as text, verbatim.
    """

    url: str
    naive_times: bool

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def connect(self) -> Any:
        """Open a driver connection with implicit transactions; the caller commits and closes."""
        if self.is_sqlite:
            return sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=30)
        return psycopg.connect(self.url)

    def execute(self, *statements: str) -> None:
        connection = self.connect()
        try:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        finally:
            connection.close()

    def calls(self, rows: Iterable[tuple[Any, Any, Any]], *, first_id: int | None = None) -> None:
        """Insert calls as (user_id, cost_cents, created_at); ids follow on, or count from `first_id`."""
        values = [(user, self._cost(cost), self._time(moment)) for user, cost, moment in rows]
        columns = "user_id, cost_cents, created_at"
        marks = "?, ?, ?" if self.is_sqlite else "%s, %s, %s"
        if first_id is not None:
            columns, marks = f"id, {columns}", f"{'?' if self.is_sqlite else '%s'}, {marks}"
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
            marks = ", ".join("?" if self.is_sqlite else "%s" for _ in row)
            self._many(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", [tuple(row.values())])

    def _many(self, statement: str, values: list[Any]) -> None:
        connection = self.connect()
        try:
            cursor = connection.cursor()
            cursor.executemany(statement, values)
            connection.commit()
        finally:
            connection.close()

    def _cost(self, cost: Any) -> Any:
        return str(cost) if self.is_sqlite and isinstance(cost, Decimal) else cost

    def _time(self, moment: Any) -> Any:
        if not isinstance(moment, datetime):
            return moment
        if self.is_sqlite:
            return moment.replace(tzinfo=None).isoformat(" ") if self.naive_times else moment.isoformat()
        return moment.replace(tzinfo=None) if self.naive_times else moment
