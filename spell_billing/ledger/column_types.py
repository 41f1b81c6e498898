"""What the ledger's tables are made of: columns that both databases keep exactly, and rows as values.

Each column has a comment that PostgreSQL keeps and docs/ledger.md shows; some are of many tables.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from spell_billing.core.errors import altered_row, altered_value
from spell_billing.core.money import plain
from spell_billing.core.outcomes import Reason, State

_Row = TypeVar("_Row")
_Outcome = TypeVar("_Outcome", State, Reason)
_MOST_DIGITS = 40
"""Before the point, or zeros after it: far beyond any amount."""
_SHOWN = 3
"""Columns of a row that an error names: its key comes first."""


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal kept exactly: `numeric` in PostgreSQL, text in SQLite (its numeric is a float)."""

    impl = sa.Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column type of the database."""
        kind: TypeEngine[Any] = sa.String() if dialect.name == "sqlite" else sa.Numeric()
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | str | None:
        """Hand the decimal to the driver."""
        return plain(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Decimal | str | None, dialect: Dialect) -> Decimal | None:  # noqa: ARG002
        """Take the decimal from the driver; see `amount_of`."""
        return None if value is None else amount_of(value)


def amount_of(value: Decimal | str) -> Decimal:
    """Return an amount as a database hands it over.

    Raises:
        IntegrityError: when it was altered to what no amount is.
    """
    try:
        amount = Decimal(value)
    except ArithmeticError:
        raise altered_value(value, "an amount") from None
    if not amount.is_finite() or abs(amount.adjusted()) >= _MOST_DIGITS:
        raise altered_value(value, "an amount")
    return amount


class _SqliteTime(sqlite.DATETIME):
    """A time as SQLite keeps it: text, which anybody can alter to what no time is."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """Read the time.

        Raises:
            IntegrityError: when it cannot be read.
        """
        read = super().result_processor(dialect, coltype)

        def process(value: Any) -> Any:
            try:
                return read(value) if read else value
            except (ValueError, TypeError):
                raise altered_value(value, "a time") from None

        return process


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC: `timestamptz` in PostgreSQL, naive UTC text in SQLite."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column type of the database."""
        is_text = dialect.name == "sqlite"
        return dialect.type_descriptor(sa.types.to_instance(_SqliteTime) if is_text else self.impl_instance)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive datetimes and store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the ledger")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()
"""All tables, once `schema` is imported."""

MONTH = "The month that is billed, as `2026-10`."
USER = "The platform's user."
GENERATION = "Counts the user's bills of the month: above 1 where an earlier invoice was voided."
CURRENCY = "Of all amounts of the row: three lower-case letters, as `usd`."
ACTOR = "Who did it: a run, a sensor, a person with the machine or address, `secret` or a session."
RUN = "The Dagster run; empty outside of one."
INVOICE = "Stripe's id of the invoice, `in_...`."
REQUEST = "Stripe's id of the request that did it, `req_...`."
WAY = "How it came in: as `webhook`, `stripe events` or `sweep`."
WHY = "Why, in the person's words."


def number() -> sa.Column[int]:
    """Return the column that numbers rows."""
    return key("id", BigId, "Rises with each row.", autoincrement=True)


def key(name: str, kind: Any, comment: str, **more: Any) -> sa.Column[Any]:
    """Return a column of the primary key."""
    return sa.Column(name, kind, primary_key=True, comment=comment, **more)


def required(name: str, kind: Any, comment: str, **more: Any) -> sa.Column[Any]:
    """Return a column that is never null."""
    return sa.Column(name, kind, nullable=False, comment=comment, **more)


def optional(name: str, kind: Any, comment: str) -> sa.Column[Any]:
    """Return a column that may be null."""
    return sa.Column(name, kind, comment=comment)


def columns_of(table: sa.FromClause, kind: type[Any]) -> list[sa.ColumnElement[Any]]:
    """Return the columns of a table that a dataclass has fields for."""
    return [table.c[field.name] for field in fields(kind)]


def read_as(connection: Connection, kind: type[_Row], query: sa.Select[Any]) -> list[_Row]:
    """Return a query's rows as dataclasses, whose fields are named as its columns."""
    return list(stream_as(connection, kind, query))


def stream_as(connection: Connection, kind: type[_Row], query: sa.Select[Any]) -> Generator[_Row, None, None]:
    """Return the same a row at a time.

    Raises:
        IntegrityError: when a row was altered to what its column does not hold.
    """
    with connection.execute(query) as result:
        # To look up each attribute of a row takes as long as to read it from the database.
        names = [*map(str, result.keys())]
        for row in result:
            values = dict(zip(names, row, strict=True))
            try:
                yield msgspec.convert(values, kind)
            except msgspec.ValidationError as error:
                shown = ", ".join(f"{name} {values[name]}" for name in names[:_SHOWN])
                table = getattr(query.get_final_froms()[0], "name", "the ledger")
                raise altered_row(f"The row of {shown} ({error})", table) from None


def outcome(kind: type[_Outcome], text: str) -> _Outcome:
    """Return the state, or the reason, that a row has.

    Raises:
        IntegrityError: when it was altered to what none is.
    """
    try:
        return kind(text)
    except ValueError:
        raise altered_value(text, f"a {kind.__name__.lower()}") from None


def above_zero(amount: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Return an amount, and zero for one below."""
    return sa.case((amount > 0, amount), else_=0)


def insert_new(connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert the rows whose key is not there yet, and return how many; the others stay as they are."""
    if not rows:
        return 0
    statement = _insert(connection, table).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return len(connection.execute(statement, list(rows)).all())


def put_row(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> None:
    """Insert a row, in place of the one with its key if there is one."""
    insert = _insert(connection, table)
    new = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    keys = table.primary_key.columns
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=new), [row])


def _insert(connection: Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    return (sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert)(table)
