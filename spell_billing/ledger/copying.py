"""PostgreSQL's COPY into a table, through the connection that SQLAlchemy holds."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection


def copy_rows(
    connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> int:
    """Copy rows into a table in the connection's transaction, and give their number.

    Raises:
        sqlalchemy.exc.DBAPIError: as SQLAlchemy would; whoever catches its errors need not know of the
            shortcut.
    """
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    count = 0
    try:
        with (
            driver.cursor() as cursor,
            cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)
                count += 1
    except psycopg.Error as error:
        kind = sa.exc.IntegrityError if isinstance(error, psycopg.IntegrityError) else sa.exc.DBAPIError
        raise kind(f"COPY {table}", None, error, connection_invalidated=driver.broken) from error
    return count
