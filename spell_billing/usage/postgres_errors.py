"""What goes wrong while PostgreSQL is read, in words: what is unreachable, what passes, and what is left."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import adbc_driver_manager
import pyarrow as pa

from spell_billing.core.errors import UsageError, UsageInterruptedError
from spell_billing.settings.databases import DatabaseUrl, database_errors, is_transient_sqlstate, unreachable
from spell_billing.usage.privileges import unreadable

_POOLER = ("pooling mode", "unsupported startup parameter", "prepared statement")
"""The last is said where a session is reset between a statement's steps (`server_reset_query_always`)."""
_FORBIDDEN = "42501"
_ASK = "Run it again; if it persists, ask the database's administrator."
_LIBPQ = "[libpq]"
_REASON = re.compile(r"(?:ERROR|FATAL):\s+(?P<reason>.+)")


@contextmanager
def reading(url: DatabaseUrl) -> Iterator[None]:
    """Turn the errors of the driver, and of its streams, into ours.

    Raises:
        DatabaseUnreachableError: the server does not answer, or the connection was lost.
        UsageInterruptedError: what was read was ended, for a reason that passes.
        UsageError: anything else that the server says.
    """
    try:
        with database_errors(url), _refused_by_pooler(url):
            yield
    except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and _LIBPQ not in str(error):
            # Of the disk that is written to.
            raise
        found = _REASON.search(str(error))
        reason = found["reason"].rstrip(".") if found else str(error).partition("\n")[0]
        state = sqlstate_of(error)
        # What the driver itself says of a lost connection comes without a state.
        if not state and "connection" in reason:
            raise unreachable(url, reason) from error
        what = f"Reading {url.redacted} ({url.setting}) failed: {reason}."
        if is_transient_sqlstate(state):
            raise UsageInterruptedError(what, remedy=_ASK) from error
        if state == _FORBIDDEN:
            raise _not_readable(url, what) from error
        raise UsageError(what, remedy=_ASK) from error


def _not_readable(url: DatabaseUrl, what: str) -> UsageError:
    """Return the error of a user who lacks a grant, which is named where the catalog tells."""
    try:
        missing = unreadable(url)
    except Exception:  # noqa: BLE001 - whatever goes wrong here, the first error is the one to tell
        missing = []
    if not missing:
        remedy = "Grant SELECT on the table to the user of the URL, and BYPASSRLS if it has row security."
        return UsageError(what, remedy=remedy)
    user, table, _ = missing[0]
    columns = ", ".join(column for _, other, column in missing if other == table)
    return UsageError(
        f"The database user {user} ({url.setting}) may not read {columns} of {table}.",
        remedy=f"As the table's owner: GRANT SELECT ({columns}) ON {table} TO {user}; docs/permissions.md "
        "has the whole list.",
    )


def sqlstate_of(error: Exception) -> str:
    """Return the SQLSTATE of a driver's error, empty where it has none."""
    return str(getattr(error, "sqlstate", None) or "").strip("\0")


@contextmanager
def _refused_by_pooler(url: DatabaseUrl) -> Iterator[None]:
    try:
        yield
    except adbc_driver_manager.Error as error:
        found = _REASON.search(str(error))
        if found is None or not any(sign in found["reason"] for sign in _POOLER):
            raise
        raise UsageError(
            f"The pooler before {url.redacted} ({url.setting}) refuses: {found['reason'].rstrip('.')}.",
            remedy="Reach the server itself, or a pooler in session or transaction mode that resets nothing "
            "between transactions, without options of the session in the URL.",
        ) from error
