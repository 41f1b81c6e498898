"""Loads rows into PostgreSQL by COPY, and what follows from them while the next rows are being made.

Whoever makes rows and PostgreSQL each have a processor. COPY keeps both busy; a statement after it would
leave one idle, so it runs behind: https://www.postgresql.org/docs/current/libpq-async.html.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, Self, cast

import psycopg
import sqlalchemy as sa
from psycopg.abc import Buffer, PQGen
from psycopg.copy import Copy, LibpqWriter, Writer
from psycopg.waiting import Wait
from sqlalchemy.engine import Connection

BATCH_BLOCKS = 150
"""Blocks of 32 KB of a batch: about 12,000 drafts."""

_UNSENT_BYTES = 8 << 20
"""What may wait to be sent. With less, making rows waits while PostgreSQL takes in those made meanwhile."""


def copy_rows(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    then: str,
    values: Sequence[str],
) -> int:
    """Copy rows into a table in the connection's transaction, and give their number.

    Args:
        connection: To PostgreSQL, in a transaction.
        table: With a rising `id`.
        columns: Of the rows.
        rows: Made while PostgreSQL takes in the ones before.
        then: A statement for the rows of a batch: those with an id above its last parameter.
        values: Its parameters before that, as text.

    Raises:
        sqlalchemy.exc.DBAPIError: as SQLAlchemy would; whoever catches its errors need not know of the
            shortcut.
    """
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    copy = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
    count = 0
    try:
        with driver.cursor() as cursor, _Behind(driver) as behind:
            blocks = _blocks(driver, rows)
            while ready := [*behind.meanwhile(blocks)] or [*islice(blocks, 1)]:
                behind.finish()
                last_id = _last_id(cursor, table)
                writer = LibpqWriter(cursor, flush_threshold=_UNSENT_BYTES)
                with cursor.copy(copy, writer=writer) as stream:
                    for block in chain(ready, islice(blocks, BATCH_BLOCKS)):
                        stream.write(block)
                count += cursor.rowcount
                behind.start(then, [*values, last_id])
            behind.finish()
    except psycopg.Error as error:
        kind = sa.exc.IntegrityError if isinstance(error, psycopg.IntegrityError) else sa.exc.DBAPIError
        raise kind(copy, None, error, connection_invalidated=driver.broken) from error
    return count


def _last_id(cursor: psycopg.Cursor[Any], table: str) -> str:
    # Ids rise in the order of inserting, over all sessions.
    ((last_id,),) = cursor.execute(f"SELECT coalesce(max(id), 0)::text FROM {table}").fetchall()
    return str(last_id)


class _Behind:
    """A statement at a time that PostgreSQL works on while the caller goes on. A context manager."""

    def __init__(self, driver: psycopg.Connection[Any]) -> None:
        self._driver = driver
        self._connection = driver.pgconn
        self._encoding = driver.info.encoding
        self._runs = False

    def start(self, statement: str, values: Sequence[str]) -> None:
        """Send a statement with its parameters as text."""
        encoded = [value.encode(self._encoding) for value in values]
        self._connection.send_query_params(statement.encode(self._encoding), encoded)
        self._runs = True

    def meanwhile(self, blocks: Iterator[Buffer]) -> Iterator[Buffer]:
        """Take blocks until the statement is done, or none is left."""
        while self._is_running() and (block := next(blocks, None)) is not None:
            yield block

    def finish(self) -> None:
        """Wait for the statement.

        Raises:
            psycopg.Error: what became of it.
        """
        self._driver.wait(self._end())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # After an error there is one to tell already; the connection must be free for the rollback.
        with suppress(psycopg.Error):
            self.finish()

    def _end(self) -> PQGen[None]:
        while self._is_running():
            yield Wait.R

    def _is_running(self) -> bool:
        if not self._runs:
            return False
        self._connection.flush()
        self._connection.consume_input()
        if self._connection.is_busy():
            return True
        self._runs = False
        while (result := self._connection.get_result()) is not None:
            if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
                failed = psycopg.errors.error_from_result(result, self._encoding)
                while self._connection.get_result() is not None:
                    pass
                raise failed
        return False


class _Collected(Writer):
    """Keeps COPY's data instead of sending it."""

    def __init__(self) -> None:
        self.blocks: list[Buffer] = []

    def write(self, data: Buffer) -> None:
        self.blocks.append(data)


def _blocks(driver: psycopg.Connection[Any], rows: Iterable[Sequence[Any]]) -> Iterator[Buffer]:
    """Write rows as COPY takes them, whole rows in blocks of about 32 KB."""
    collected = _Collected()
    with driver.cursor() as cursor, Copy(cursor, binary=False, writer=collected) as copy:
        for row in rows:
            copy.write_row(row)
            if collected.blocks:
                yield collected.blocks.pop()
    yield from collected.blocks
