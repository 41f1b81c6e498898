"""Loads rows into PostgreSQL by COPY, and what follows from them while the next rows are being made.

The maker of rows and PostgreSQL each have a processor. COPY keeps both busy; a statement after it would
leave one idle, so it runs behind: https://www.postgresql.org/docs/current/libpq-async.html.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, Self, cast

import psycopg
import sqlalchemy as sa
from psycopg.abc import Buffer, PQGen
from psycopg.copy import Copy, LibpqWriter, Writer
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.waiting import Wait
from sqlalchemy.engine import Connection

BATCH_BLOCKS = 75
"""Blocks of 32 KB of a batch: about 6,000 drafts."""

_UNSENT_BYTES = 8 << 20
"""What may wait to be sent. With less, making rows waits while PostgreSQL takes in those made meanwhile."""

_CANCEL_SECONDS = 5.0
_CANCEL_AGAIN_SECONDS = 0.25
_STUCK = frozenset({TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN})
"""A statement without an end, as after a lost socket; and a lost connection."""


def copy_rows(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    then: str,
    values: Sequence[str],
) -> tuple[int, int]:
    """Copy rows into a table in the connection's transaction, each batch followed by a statement.

    Args:
        connection: To PostgreSQL, in a transaction.
        table: With a rising `id`.
        columns: Of the rows.
        rows: Made while PostgreSQL takes in the ones before.
        then: A statement for the rows of a batch: those with an id above its last parameter.
        values: Its parameters before that, as text.

    Returns:
        How many rows were copied, and how many the statement wrote.

    Raises:
        sqlalchemy.exc.DBAPIError: as SQLAlchemy would; callers need not know of the
            shortcut.
    """
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    copy = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
    count = 0
    try:
        with driver.cursor() as cursor, _Behind(connection, driver) as behind:
            blocks = _blocks(driver, rows)
            while ready := [*islice(behind.meanwhile(blocks), BATCH_BLOCKS)] or [*islice(blocks, 1)]:
                behind.finish()
                last_id = _used_up_id(cursor, table)
                writer = LibpqWriter(cursor, flush_threshold=_UNSENT_BYTES)
                with cursor.copy(copy, writer=writer) as stream:
                    for block in chain(ready, islice(blocks, BATCH_BLOCKS)):
                        stream.write(block)
                count += cursor.rowcount
                behind.start(then, [*values, last_id])
            behind.finish()
    except psycopg.Error as error:
        kind = sa.exc.IntegrityError if isinstance(error, psycopg.IntegrityError) else sa.exc.DBAPIError
        raise kind(copy, None, error, connection_invalidated=connection.invalidated) from error
    return count, behind.written


def _used_up_id(cursor: psycopg.Cursor[Any], table: str) -> str:
    # Ids rise within a session, whatever the table holds and however many ids a session takes at once.
    ((last_id,),) = cursor.execute(
        f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))::text"
    ).fetchall()
    return str(last_id)


class _Behind:
    """A statement at a time that PostgreSQL works on while the caller goes on. A context manager.

    `written`: the rows of all that are done.
    """

    def __init__(self, owner: Connection, driver: psycopg.Connection[Any]) -> None:
        self._owner = owner
        self._driver = driver
        self._connection = driver.pgconn
        self._encoding = driver.info.encoding
        self._runs = False
        self.written = 0

    def start(self, statement: str, values: Sequence[str]) -> None:
        """Send a statement with its parameters as text."""
        encoded = [value.encode(self._encoding) for value in values]
        self._runs = True
        self._connection.send_query_params(statement.encode(self._encoding), encoded)

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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Whatever went wrong, the connection is left free for the rollback, or as lost.
        try:
            if kind is not None and self._is_stuck():
                with suppress(psycopg.Error):
                    self._cancel()
        finally:
            if self._is_stuck():
                self._owner.invalidate()

    def _is_stuck(self) -> bool:
        return self._connection.transaction_status in _STUCK

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
        results = list(iter(self._connection.get_result, None))
        self._runs = False
        for result in results:
            if result.status != ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result, self._encoding)
            self.written += result.command_tuples or 0
        return False

    def _cancel(self) -> None:
        # Again and again: what PostgreSQL hears before it has begun the statement is without effect.
        deadline_seconds = time.monotonic() + _CANCEL_SECONDS
        goes_on = True
        while goes_on and time.monotonic() < deadline_seconds:
            self._driver.cancel_safe(timeout=_CANCEL_SECONDS)
            goes_on = self._driver.wait(self._rest(time.monotonic() + _CANCEL_AGAIN_SECONDS))

    def _rest(self, deadline_seconds: float) -> PQGen[bool]:
        """Take what is left, and tell whether the statement goes on. The rest of a COPY cannot be taken."""
        while time.monotonic() < deadline_seconds:
            self._connection.flush()
            self._connection.consume_input()
            if self._connection.is_busy():
                yield Wait.R
            elif (result := self._connection.get_result()) is None or result.status == ExecStatus.COPY_IN:
                return False
        return True


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
