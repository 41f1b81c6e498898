"""A pooler between us and PostgreSQL: one that hands out a session per transaction is refused.

The month's lock belongs to a session of the server. Where each transaction may run in another one, the lock
stays behind in a session that nobody uses, and excludes nobody.
"""

from contextlib import ExitStack

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from spell_billing.core.errors import SettingsError
from spell_billing.settings.databases import DatabaseUrl

_OTHERS = 4
"""So many connections try to get the session of another that is idle."""

_BY_STATEMENT = "statement pooling"
"""What PgBouncer says where it hands out a session per statement."""


def require_sessions(url: DatabaseUrl, engine: Engine) -> None:
    """Refuse a pooler that does not keep a session of PostgreSQL for each connection of ours.

    A direct connection costs one question. Behind a pooler, other connections begin transactions while ours
    is idle: one that is served by our session proves that the session is not ours.

    Raises:
        SettingsError: naming the setting and the remedy.
    """
    if engine.dialect.name != "postgresql":
        return
    try:
        with engine.execution_options(read_only=True).connect() as connection:
            own = session_of(connection)
            connection.commit()
            if not is_pooled(connection, own):
                return
            with ExitStack() as others:
                for _ in range(_OTHERS):
                    if session_of(others.enter_context(engine.connect())) == own:
                        raise pooler_refused(url)
                if session_of(connection) != own:
                    raise pooler_refused(url)
    except sa.exc.DBAPIError as error:
        if _BY_STATEMENT in str(error.orig):
            raise pooler_refused(url) from None
        raise


def session_of(connection: Connection) -> int:
    """Return the server's process that serves the present transaction."""
    pid: int = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    return pid


def is_pooled(connection: Connection, session: int) -> bool:
    """Return whether somebody between us and the server answered for it when we connected."""
    named: int = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
    return named != session


def pooler_refused(url: DatabaseUrl) -> SettingsError:
    """Return the error for a connection whose transactions are served by one session and then another."""
    return SettingsError(
        f"{url.setting} leads through a pooler that gives each transaction another session of PostgreSQL, "
        "so that the ledger's locks would exclude nobody.",
        remedy="Connect to the server itself, or set pool_mode = session for this database in PgBouncer.",
    )
