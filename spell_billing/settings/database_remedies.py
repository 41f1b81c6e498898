"""What to do when a database lets nobody in or refuses a statement, by what it says."""

import re

OF_FILE = "Check that {setting} points to an existing SQLite file that this user may read and write."
_OF_SERVERS = {
    r"pg_hba\.conf": (
        "Have the server's pg_hba.conf let this user and host in, or set sslmode=verify-full in {setting} "
        "where it asks for encryption."
    ),
    "does not match host name": "Give {setting} the host by a name that its certificate has.",
    "certificate|sslmode|SSL|TLS": (
        "Check sslmode and sslrootcert in {setting}: sslrootcert names the authority's file, or is system "
        "with sslmode=verify-full; SSL_CERT_FILE names the system's authorities where OpenSSL does not find "
        "them."
    ),
    "too many (clients|connections)|connection slots|query_wait_timeout|no more connections allowed": (
        "Try again when fewer programs are connected, or raise the server's max_connections or the "
        "pooler's default_pool_size."
    ),
    "starting up|shutting down|recovery mode|not yet accepting": "Try again when the server has started.",
}
"""By what PostgreSQL, libpq or PgBouncer says."""
_OF_ANY_SERVER = (
    "Check that the server runs and that {setting} has the right host, database, user and password."
)
_READ_ONLY = "25006"
_FULL = ("53100", "database or disk is full")


def of_server(reason: str) -> str:
    """Return what to do about a server that cannot be used, with `{setting}` for the URL's setting."""
    return next((words for sign, words in _OF_SERVERS.items() if re.search(sign, reason)), _OF_ANY_SERVER)


def of_statement(sign: str, *, transient: bool) -> str:
    """Return what to do about a statement that the ledger's database refused, by its SQLSTATE or words."""
    if sign == _READ_ONLY:
        remedy = (
            "DATABASE_URL must lead to a server that writes, not to a standby or one that is set to "
            "default_transaction_read_only."
        )
    elif sign in _FULL:
        remedy = "Make room on the database's disk, then try again."
    elif transient:
        return "Nothing of it was written; try again."
    else:
        remedy = "Check the database's log, its permissions and its disk."
    return f"Nothing of it was written. {remedy}"
