"""The month's lock: held by one process, released by the system when that process dies.

In PostgreSQL it belongs to a session of the server. Behind a pooler that may run each transaction in another
one, it would stay in a session that nobody uses, and exclude nobody: such a pooler is refused.
"""

import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.engine import Connection, Engine

from spell_billing.core.errors import MonthLockedError, SettingsError
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl

ONCE = "run-"
"""Begins the names of locks that are taken once and never again."""

HOLDER = "spell_billing"
"""Begins the name of a holder's connection, before what it holds: `spell_billing 2026-10: process ...`."""

_UNKNOWN = "another process"
_POLL_SECONDS = 0.2
_NEVER_IDLE_TOO_LONG = sa.text(
    "SELECT set_config(name, '0', false) FROM pg_settings "
    "WHERE name = 'idle_session_timeout' AND setting <> '0'"
)
_HELD = (
    "FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_MONTHS_HELD = sa.text(
    f"SELECT DISTINCT substring(a.application_name FROM '^{HOLDER} ([0-9]{{4}}-[0-9]{{2}}):') {_HELD}"
)


@contextmanager
def month_lock(
    url: DatabaseUrl,
    connection: Connection,
    month: str,
    *,
    wait_seconds: float,
    on_wait: Callable[[str], None],
) -> Iterator[Callable[[], None]]:
    """Hold the month for this process; return what proves, in a transaction, that the lock is still held.

    PostgreSQL: a session advisory lock of `connection`. All ledger writes of the holder go through that same
    connection, so a holder that lost its lock cannot write either. SQLite: a lock file beside the database.

    Wait while another process holds it; `on_wait` is called once with its name.

    Raises:
        MonthLockedError: naming the holder, when it does not let go in time.
        SettingsError: by the proof, when a pooler serves the transaction by another session than the lock's.
    """
    lock = _lock_of(url, connection, month)
    deadline = time.monotonic() + wait_seconds
    told = False
    while not lock.try_acquire():
        if time.monotonic() >= deadline:
            holder = lock.holder() or _UNKNOWN
            raise MonthLockedError(
                f"{month} is being billed by {holder}."
                if month[:1].isdigit()
                else f"Another process is busy with {month}: {holder}.",
                remedy="Wait until that run has ended; the next run does what is left.",
            )
        if not told:
            on_wait(f"{month} is held by {lock.holder() or _UNKNOWN}; waiting for it")
            told = True
        time.sleep(_POLL_SECONDS)
    try:
        yield lock.require
    finally:
        lock.release()


def is_held(url: DatabaseUrl, connection: Connection, month: str) -> bool:
    """Return whether a process holds the month, without taking the lock from anyone."""
    return _lock_of(url, connection, month).holder() is not None


def months_held(url: DatabaseUrl, connection: Connection) -> frozenset[Month]:
    """Return the months that processes hold right now, without taking a lock from anyone."""
    base = url.sqlite_path
    if base is not None:
        name = re.compile(rf"{re.escape(base.name)}\.(\d{{4}}-\d{{2}})\.holder")
        months = [found[1] for each in base.parent.iterdir() if (found := name.fullmatch(each.name))]
        held = [month for month in months if is_held(url, connection, month)]
    else:
        held = [month for month in connection.scalars(_MONTHS_HELD) if month is not None]
        connection.commit()
    return frozenset(map(Month.parse, held))


def process_name() -> str:
    """Name this process as other holders shall see it."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _lock_of(url: DatabaseUrl, connection: Connection, month: str) -> "_PostgresLock | _SqliteLock":
    path = url.sqlite_path
    return _PostgresLock(url, connection, month) if path is None else _SqliteLock(path, month)


class _PostgresLock:
    def __init__(self, url: DatabaseUrl, connection: Connection, month: str) -> None:
        self._url = url
        self._connection = connection
        digest = hashlib.sha256(f"spell_billing:{month}".encode()).digest()
        self._key = int.from_bytes(digest[:8], signed=True)
        self._session: int | None = None
        """The server's session that holds the lock, where a pooler could serve us by another."""

    def try_acquire(self) -> bool:
        # The server would end a holder that waits long for Stripe. The connection is closed with the lock.
        self._connection.execute(_NEVER_IDLE_TOO_LONG)
        acquired = self._connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key})
        session = _session_of(self._connection)
        self._session = session if _is_pooled(self._connection, session) else None
        self._connection.commit()
        return bool(acquired)

    def require(self) -> None:
        if self._session is not None and _session_of(self._connection) != self._session:
            raise _pooler_refused(self._url)

    def holder(self) -> str | None:
        name: str | None = self._connection.scalar(
            sa.text(
                f"SELECT a.application_name {_HELD} AND ((l.classid::bigint << 32) | l.objid::bigint) = :key"
            ),
            {"key": self._key},
        )
        self._connection.commit()
        return name

    def release(self) -> None:
        if self._connection.closed or self._connection.invalidated:
            return
        try:
            self._connection.rollback()
            self._connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})
            self._connection.commit()
        except sa.exc.DBAPIError as error:
            # With the connection the lock is gone as well.
            if not error.connection_invalidated:
                raise


class _SqliteLock:
    def __init__(self, base: Path, month: str) -> None:
        self._file = base.with_name(f"{base.name}.{month}.lock")
        self._once = month.startswith(ONCE)
        self._lock = FileLock(self._file)
        self._holder = base.with_name(f"{base.name}.{month}.holder")

    def try_acquire(self) -> bool:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        # The name is for people; on a full disk, what is written next says so.
        with suppress(OSError):
            self._holder.write_text(process_name(), encoding="utf-8")
        return True

    def require(self) -> None:
        """The file is locked until this process lets go of it."""

    def holder(self) -> str | None:
        # A holder names itself. A dead one leaves its name behind, so the lock has the last word.
        try:
            name = self._holder.read_text(encoding="utf-8")
            self._lock.acquire(blocking=False)
        except FileNotFoundError:
            return None
        except Timeout:
            return name or _UNKNOWN
        self._lock.release()
        return None

    def release(self) -> None:
        self._holder.unlink(missing_ok=True)
        if self._once:
            # Before it is let go, so that nobody can lock a file that is then removed.
            self._file.unlink(missing_ok=True)
        self._lock.release()


_OTHERS = 4
"""How many connections try to get the session of another that is idle."""

_BY_STATEMENT = "statement pooling"
"""What PgBouncer says where it hands out a session per statement."""


def require_sessions(url: DatabaseUrl, engine: Engine) -> None:
    """Refuse a pooler that does not keep a session of PostgreSQL for each connection.

    A direct connection costs one query. Behind a pooler, other connections begin transactions while the first
    is idle: one that is served by the first one's session proves that this does not keep it.

    Raises:
        SettingsError: naming the setting and the remedy.
    """
    if engine.dialect.name != "postgresql":
        return
    try:
        with engine.execution_options(read_only=True).connect() as connection, ExitStack() as others:
            own = _session_of(connection)
            connection.commit()
            if _is_pooled(connection, own):
                busy = [others.enter_context(engine.connect()) for _ in range(_OTHERS)]
                if own in map(_session_of, busy) or _session_of(connection) != own:
                    raise _pooler_refused(url)
    except sa.exc.DBAPIError as error:
        if _BY_STATEMENT in str(error.orig):
            raise _pooler_refused(url) from None
        raise


def _session_of(connection: Connection) -> int:
    """Return the server's process that serves the present transaction."""
    pid: int = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    return pid


def _is_pooled(connection: Connection, session: int) -> bool:
    """Return whether somebody between us and the server answered for it when we connected."""
    named: int = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
    return named != session


def _pooler_refused(url: DatabaseUrl) -> SettingsError:
    return SettingsError(
        f"{url.setting} leads through a pooler that gives each transaction another session of PostgreSQL, "
        "so that the ledger's locks would exclude nobody.",
        remedy="Connect to the server itself, or set pool_mode = session for this database in PgBouncer.",
    )
