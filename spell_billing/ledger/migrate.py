"""Bring the ledger's tables up to date: safe on every start, from any number of processes at once."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from spell_billing.core.errors import LedgerError
from spell_billing.ledger.privileges import FORBIDDEN

HEAD = "0018"
"""The newest revision. A test holds it equal to the newest migration."""

_FIRST = "0018"
"""The oldest migration: it brings ledgers of all revisions before to its own."""
_REVISION = sa.text("SELECT version_num FROM ledger_version")
_LOCK_KEY = 0x5B111_1ED6E4


def migrate(engine: Engine) -> bool:
    """Run the migrations that the database lacks, in one transaction, and return whether there were any.

    Raises:
        LedgerError: when the database was migrated by a newer version of spell_billing, or is not in UTF-8.
    """
    if _look(engine) == HEAD:
        return False
    # Alembic costs 0.2 s to import: only where there is something to migrate.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
                encoding = connection.scalar(sa.text("SHOW server_encoding"))
                if encoding != "UTF8":
                    raise LedgerError(
                        f"The ledger's database is encoded in {encoding}, which lacks letters of names.",
                        remedy="Create one for the ledger (DATABASE_URL) with ENCODING 'UTF8'; usage may "
                        "stay where it is (USAGE_DATABASE_URL).",
                    )
            current = current_revision(connection)
            if current == HEAD:
                return False
            _refuse_newer(current)
            config = Config()
            config.set_main_option("script_location", "spell_billing.ledger:migrations")
            config.attributes.update(connection=connection, earlier=current)
            if current is not None and current < _FIRST:
                connection.execute(sa.text("DELETE FROM ledger_version"))
            command.upgrade(config, HEAD)
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != FORBIDDEN:
            raise
        raise LedgerError(
            f"The ledger is not at revision {HEAD}, or its revision may not be read, and the user of "
            "DATABASE_URL may not change its tables.",
            remedy="Run `spell-billing init-db` as the tables' owner, then docs/sql/ledger_role.sql again.",
        ) from error
    return True


def require_current(engine: Engine) -> None:
    """Refuse a database that is not at the newest revision; nothing is written.

    Raises:
        LedgerError: naming the revision and who brings it up to date.
    """
    if _look(engine) == HEAD:
        return
    with engine.execution_options(read_only=True).connect() as connection:
        current = current_revision(connection)
    _refuse_newer(current)
    found = f"is at revision {current}, and this program needs {HEAD}" if current else "has no tables yet"
    raise LedgerError(
        f"The ledger {found}; what only reads does not change it.",
        remedy="Run `spell-billing init-db` with a user who may write to it, then start again.",
    )


def _refuse_newer(current: str | None) -> None:
    if current is not None and current > HEAD:
        raise LedgerError(
            f"The ledger is at revision {current}, this program knows up to {HEAD}.",
            remedy="Run the version of spell_billing that migrated it, or a newer one.",
        )


def _look(engine: Engine) -> str | None:
    """Ask for the revision in one small query, without a write lock, for which SQLite would wait.

    Every opening of a ledger asks, and looking for the table first doubles the time.
    """
    with engine.execution_options(read_only=True).connect() as connection:
        try:
            revision: str | None = connection.scalar(_REVISION)
        except sa.exc.DBAPIError:
            # Most likely there is no such table; anything else comes again when the migration looks closer.
            return None
    return revision


def current_revision(connection: Connection) -> str | None:
    """Return the revision the database is at, or None when it has no ledger."""
    if not sa.inspect(connection).has_table("ledger_version"):
        return None
    revision: str | None = connection.scalar(_REVISION)
    return revision
