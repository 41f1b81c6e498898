"""Database URLs: read them, hide their passwords, open engines, and name one that does not answer."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from spell_billing.core.errors import SettingsError, SpellBillingError
from spell_billing.settings.database_remedies import OF_FILE, of_server, of_statement

SQLITE_BUSY_TIMEOUT_SECONDS = 30

_POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2")
_SQLITE_SCHEMES = ("sqlite", "sqlite+pysqlite")
_EXAMPLES = "Write postgresql://user@host:5432/database, or sqlite:////absolute/path/to/file.db."
_MASK = "***"
# A server that does not answer is given up after 10 seconds, one that died in mid-stream after two minutes,
# unless the URL says otherwise. https://www.postgresql.org/docs/current/libpq-connect.html
_PATIENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "60",
    "keepalives_interval": "10",
    "keepalives_count": "6",
    "tcp_user_timeout": "120000",
}
# SQLSTATE classes of a server that cannot be reached or does not let us in: connection, authorization,
# unknown database, too many connections, shutting down.
_UNREACHABLE_STATES = ("08", "28", "3D", "53300", "57P0")
_UNREACHABLE_SQLITE = ("unable to open database file", "file is not a database", "readonly database")
# SQLSTATE classes that pass by themselves: connection, rolled back (deadlock, conflict with
# recovery), out of resources, object in use or locked, canceled or shut down, trouble of the server's system,
# limits of a transaction's time, snapshot too old. https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT_STATES = ("08", "40", "53", "55006", "55P03", "57", "58", "25P03", "25P04", "72")
_TRANSIENT_SQLITE = ("database is locked", "database table is locked", "database is busy", "disk I/O error")


class DatabaseUnreachableError(SpellBillingError):
    """The database does not answer, does not let us in, or its file is missing."""

    transient = True


class DatabaseStatementError(SpellBillingError):
    """The database refused a statement; nothing of its transaction was written."""

    def __init__(self, message: str, *, remedy: str, transient: bool) -> None:
        super().__init__(message, remedy=remedy)
        self.transient = transient


@dataclass(frozen=True)
class DatabaseUrl:
    """One database, as its drivers want it named. `str()` and `repr()` never show a password.

    `setting` is where the URL came from, for messages (`DATABASE_URL`); `redacted` has no password.
    `sqlalchemy_url` and `libpq_dsn` (for ADBC and psycopg; empty for SQLite) do. `sqlite_path` is absolute.
    """

    backend: Literal["sqlite", "postgresql"]
    setting: str
    redacted: str
    sqlalchemy_url: sa.URL = field(repr=False)
    libpq_dsn: str = field(repr=False)
    sqlite_path: Path | None

    def __str__(self) -> str:
        return self.redacted


def parse_database_url(text: str, *, setting: str) -> DatabaseUrl:
    """Read a database URL as SQLAlchemy or libpq writes it.

    Args:
        text: `sqlite:///relative`, `sqlite:////absolute`, or `postgresql://` (also `postgres://`,
            `postgresql+psycopg://`, `postgresql+psycopg2://`) with any option that libpq knows,
            a socket directory in `?host=`, IPv6 and several hosts included.
        setting: The name of the setting it comes from.

    Raises:
        SettingsError: naming the setting, never echoing the password.
    """
    scheme, separator, rest = text.strip().partition("://")
    if separator and scheme in _SQLITE_SCHEMES:
        return _sqlite(rest, setting)
    if separator and scheme in _POSTGRES_SCHEMES:
        return _postgres(rest, setting)
    kind = repr(scheme) if separator and re.fullmatch(r"[a-z0-9+]+", scheme) else "its text"
    raise SettingsError(
        f"{setting} names no database that is supported: {kind} is neither PostgreSQL nor SQLite.",
        remedy=_EXAMPLES,
    )


def create_engine_for(url: DatabaseUrl, *, application_name: str | None = None) -> sa.Engine:
    """Open a SQLAlchemy engine; the first connection may raise what `database_errors` translates.

    SQLite: foreign keys on, waits 30 seconds for a lock, write-ahead log (readers and one writer do not
    block each other; the file must lie on a local disk), every commit synced. A transaction takes the write
    lock when it begins, because one that reads first and then writes fails at once when another wrote in
    between; `engine.execution_options(read_only=True)` begins without it.
    PostgreSQL: connections are tested before use, and named `application_name`, by default as the URL says.
    """
    if url.backend == "postgresql":
        given = application_name or url.sqlalchemy_url.query.get("application_name")
        # Behind a pooler that resets nothing, prepared statements would meet those of an earlier client.
        options = {"application_name": given or "spell_billing", "prepare_threshold": None}
        # No column is of hstore, for which SQLAlchemy would ask each server.
        engine = sa.create_engine(
            url.sqlalchemy_url, pool_pre_ping=True, connect_args=options, use_native_hstore=False
        )
        sa.event.listen(engine, "connect", _prepare_postgres)
        return engine
    engine = sa.create_engine(url.sqlalchemy_url, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def database_errors(url: DatabaseUrl) -> Iterator[None]:
    """Turn a driver's error of an unreachable database into one that names the setting and the remedy.

    Errors of a statement (a deadlock, a constraint) pass unchanged. Works for SQLAlchemy, psycopg, sqlite3
    and ADBC alike.

    Raises:
        DatabaseUnreachableError: naming setting, redacted URL and remedy.
    """
    try:
        yield
    except Exception as error:
        reason = _unreachable_reason(error)
        if reason is None:
            raise
        raise unreachable(url, reason) from error


def is_transient_sqlstate(state: str | None) -> bool:
    """Return whether a statement that failed with this SQLSTATE may succeed later without a person's help."""
    return str(state or "").startswith(_TRANSIENT_STATES)


def refused_statement(error: DBAPIError) -> DatabaseStatementError:
    """Return the error for a statement that the database refused, transient where a later try may succeed."""
    first_line = str(error.orig).strip().partition("\n")[0].rstrip(".")
    transient = (
        error.connection_invalidated
        or is_transient_sqlstate(getattr(error.orig, "sqlstate", None))
        or any(sign in first_line for sign in _TRANSIENT_SQLITE)
    )
    state = getattr(error.orig, "sqlstate", None)
    remedy = of_statement(state or first_line, transient=transient)
    return DatabaseStatementError(
        f"The database refused a statement: {first_line}.", remedy=remedy, transient=transient
    )


def unreachable(url: DatabaseUrl, reason: str) -> DatabaseUnreachableError:
    """Return the error for a database that cannot be used, with the password masked in `reason`."""
    password = url.sqlalchemy_url.password
    first_line = reason.strip().partition("\n")[0]
    if password:
        first_line = first_line.replace(str(password), _MASK)
    remedy = of_server(reason) if url.backend == "postgresql" else OF_FILE
    return DatabaseUnreachableError(
        f"The database {url.redacted} ({url.setting}) cannot be used: {first_line.rstrip('.')}.",
        remedy=remedy.format(setting=url.setting),
    )


def _sqlite(rest: str, setting: str) -> DatabaseUrl:
    authority, slash, database = rest.partition("/")
    if "?" in database:
        raise SettingsError(f"{setting} has options, and a SQLite URL takes none here.", remedy=_EXAMPLES)
    if not slash or database in {"", ":memory:"} or database.startswith("file:"):
        raise SettingsError(
            f"{setting} names a SQLite database in memory, or none: billing must outlive its process.",
            remedy=_EXAMPLES,
        )
    if authority:
        raise SettingsError(
            f"{setting} has too few slashes: a SQLite URL has three before a relative path, four before "
            "an absolute one.",
            remedy=_EXAMPLES,
        )
    path = Path(database).absolute()
    url = sa.URL.create("sqlite", database=str(path))
    return DatabaseUrl("sqlite", setting, f"sqlite:///{path}", url, "", path)


def _postgres(rest: str, setting: str) -> DatabaseUrl:
    authority, _, path = rest.partition("?")[0].partition("/")
    if authority.count("@") > 1 or "@" in path:
        raise SettingsError(
            f"{setting} has an @ that does not end the user and password.",
            remedy="Percent-encode special characters of the password: @ is %40, / is %2F, : is %3A.",
        )
    # Costs 0.2 s to import: only where the database is PostgreSQL.
    import psycopg  # noqa: PLC0415
    from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415

    try:
        named = conninfo_to_dict(f"postgresql://{rest}").items()
        given = {name: str(value) for name, value in named}
        # All our text is UTF-8, whatever the database's is.
        parameters = {**_PATIENCE, **given, "client_encoding": "UTF8"}
    except psycopg.Error:
        parameters = {}
    ports = parameters.get("port", "").split(",")
    if not parameters.get("dbname") or any(port and not port.isdigit() for port in ports):
        raise SettingsError(
            f"{setting} is not a PostgreSQL URL that names a database (or has an unknown option, or a port "
            "that is no number).",
            remedy=f"{_EXAMPLES} Percent-encode special characters of the password.",
        )
    url = sa.URL.create(
        "postgresql+psycopg",
        username=parameters.get("user"),
        password=parameters.get("password"),
        database=parameters["dbname"],
        query={name: each for name, each in parameters.items() if name not in ("user", "password", "dbname")},
    )
    return DatabaseUrl(
        "postgresql", setting, _redacted_postgres(parameters), url, make_conninfo(**parameters), None
    )


def _redacted_postgres(parameters: Mapping[str, str]) -> str:
    user = quote(parameters.get("user", ""), safe="")
    secret = f":{_MASK}" if "password" in parameters else ""
    login = f"{user}{secret}@" if user or secret else ""
    host, port = parameters.get("host", ""), parameters.get("port", "")
    database = quote(parameters["dbname"], safe="")
    if host.startswith("/"):
        return f"postgresql://{login}/{database}?host={host}" + (f"&port={port}" if port else "")
    ports = port.split(",") if port else []
    places = []
    for index, name in enumerate(host.split(",")):
        number = ports[index if len(ports) > 1 else 0] if ports else ""
        places.append((f"[{name}]" if ":" in name else name) + (f":{number}" if number else ""))
    return f"postgresql://{login}{','.join(places)}/{database}"


def _prepare_postgres(connection: Any, _record: object) -> None:
    # The driver reads times in this form alone; a platform may prefer another for its database.
    if not (connection.info.parameter_status("DateStyle") or "").startswith("ISO"):
        connection.execute("SET DateStyle TO ISO")
        connection.commit()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver would begin transactions by its own rules (never for a SELECT): leave that to _begin_sqlite.
    connection.isolation_level = None
    # 16 MiB of cache: with SQLite's usual two, 100,000 drafts in one transaction take a fifth longer.
    for pragma in ("foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL", "cache_size=-16384"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _unreachable_reason(error: BaseException) -> str | None:
    if isinstance(error, DBAPIError):
        return _unreachable_reason(error.orig) if error.orig is not None else None
    text = str(error)
    if type(error).__module__.startswith("sqlite3"):
        return text if any(sign in text for sign in _UNREACHABLE_SQLITE) else None
    # Errors of psycopg and of ADBC carry one, if only an empty one.
    if not hasattr(error, "sqlstate"):
        return None
    state = error.sqlstate
    if not state or not str(state).strip("\0"):
        return text if "connect" in text else None
    return text if str(state).startswith(_UNREACHABLE_STATES) else None
