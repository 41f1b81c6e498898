"""Bulk loading of drafts: PostgreSQL's COPY, SQLite's executemany.

Past SQLAlchemy's cost per row: for 100,000 drafts its executemany takes 3 to 4 s, this 0.5 to 0.9 s.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.drafting import Draft
from spell_billing.core.money import plain
from spell_billing.core.month import Month
from spell_billing.ledger.rows import content_of
from spell_billing.ledger.schema import invoices

if TYPE_CHECKING:
    import psycopg

_ROWS_AT_ONCE = 5_000

_UNSENT_BYTES = 8 << 20
"""What may wait to be sent. With less, making rows waits while PostgreSQL takes in those made meanwhile."""


def insert_drafts(
    connection: Connection, month: Month, drafts: Iterable[Draft], *, run_id: str, now: datetime
) -> int:
    """Insert a month's drafts as bills of the first generation, without audit entries; return how many.

    Raises:
        sqlalchemy.exc.IntegrityError: for a second draft of a user.
        sqlalchemy.exc.DBAPIError: where the database fails, as SQLAlchemy itself would raise it.
    """
    drafts = iter(drafts)
    first = next(drafts, None)
    if first is None:
        return 0
    postgres = connection.dialect.name == "postgresql"
    moment = f"{now.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}" + ("+00" if postgres else "")
    shared = {
        "month": str(month),
        "generation": 1,
        "unbilled_calls": 0,
        "unbilled_usage_cents": "0",
        "request_attempt": 1,
        "run_id": run_id,
        "created_at": moment,
        "updated_at": moment,
    }
    columns = ", ".join(["user_id", *content_of(first), *shared])
    rows = _rows(chain([first], drafts), tuple(shared.values()))
    return (_copy if postgres else _executemany)(connection, columns, rows)


def _rows(drafts: Iterable[Draft], shared: tuple[object, ...]) -> Iterator[tuple[object, ...]]:
    for draft in drafts:
        content = content_of(draft)
        content["usage_cents"] = plain(draft.usage_cents)
        yield (draft.user_id, *content.values(), *shared)


def _copy(connection: Connection, columns: str, rows: Iterator[tuple[object, ...]]) -> int:
    # Loads psycopg, 0.2 s that SQLite does without.
    import psycopg  # noqa: PLC0415
    from psycopg.copy import LibpqWriter  # noqa: PLC0415

    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    statement = f"COPY {invoices.name} ({columns}) FROM STDIN"
    try:
        with driver.cursor() as cursor:
            writer = LibpqWriter(cursor, flush_threshold=_UNSENT_BYTES)
            with cursor.copy(statement, writer=writer) as stream:
                for row in rows:
                    stream.write_row(row)
            return cursor.rowcount
    except psycopg.Error as error:
        kind = sa.exc.IntegrityError if isinstance(error, psycopg.IntegrityError) else sa.exc.DBAPIError
        raise kind(statement, None, error, connection_invalidated=connection.invalidated) from error


def _executemany(connection: Connection, columns: str, rows: Iterator[tuple[object, ...]]) -> int:
    count = 0
    statement = f"INSERT INTO {invoices.name} ({columns}) VALUES (?{', ?' * columns.count(',')})"
    while batch := list(islice(rows, _ROWS_AT_ONCE)):
        connection.exec_driver_sql(statement, batch)
        count += len(batch)
    return count
