"""A ledger's database whose content a test can keep and put back, as a backup would."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg

Image = dict[str, bytes]
"""What a ledger held: tables by name, or the one file."""

_TABLES = ("ledger_invoices", "ledger_months", "ledger_audit")


def image_of(database_url: str) -> Image:
    """Copy all that a ledger holds, consistent even while others write."""
    if database_url.startswith("sqlite"):
        with closing(sqlite3.connect(_path(database_url))) as connection:
            return {"file": connection.serialize()}
    with psycopg.connect(database_url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        image = {}
        for table in _TABLES:
            with connection.cursor().copy(f"COPY {table} TO STDOUT (FORMAT binary)") as copy:
                image[table] = b"".join(copy)
        return image


def put_back(database_url: str, image: Image) -> None:
    """Make a migrated ledger hold what it held then. Nobody else is connected."""
    if database_url.startswith("sqlite"):
        path = _path(database_url)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(image["file"])
        return
    with psycopg.connect(database_url) as connection:
        # The audit trail refuses to be emptied, except in the way a restored backup empties it.
        connection.execute("SET LOCAL session_replication_role = replica")
        for table in _TABLES:
            # TRUNCATE makes new files, which for a few rows takes twenty times as long.
            connection.execute(f"DELETE FROM {table}")
            with connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
                copy.write(image[table])


def _path(database_url: str) -> Path:
    return Path(database_url.removeprefix("sqlite:///"))
