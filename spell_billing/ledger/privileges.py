"""What the ledger's database user must be allowed in PostgreSQL at run time, and what it hears when not.

Making and changing tables (`init-db`), erasing a user and forgetting a rehearsal are the owner's.
"""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from spell_billing.settings.databases import (
    DatabaseStatementError,
    DatabaseUrl,
    create_engine_for,
    refused_statement,
)

ROLE = "billing_ledger"
FORBIDDEN = "42501"
"""PostgreSQL's SQLSTATE of a statement for which the user lacks a privilege."""

_READ, _APPEND = ("SELECT",), ("SELECT", "INSERT")
_CHANGE, _ALL = (*_APPEND, "UPDATE"), (*_APPEND, "UPDATE", "DELETE")
PRIVILEGES = {
    "ledger_version": _READ,
    "ledger_invoices": _ALL,
    "ledger_months": _CHANGE,
    "ledger_audit": _APPEND,
    "ledger_payments": _CHANGE,
    "ledger_events": _ALL,
    "ledger_cursors": _ALL,
    "ledger_dunning": _CHANGE,
    "ledger_runs": _APPEND,
    "ledger_reviews": _ALL,
    "ledger_decisions": _APPEND,
    "ledger_moves": _APPEND,
    "ledger_stripe_account": _CHANGE,
    "ledger_outbox": _ALL,
    "ledger_charges": _CHANGE,
    "ledger_credit_notes": _CHANGE,
    "ledger_credits": _APPEND,
}
"""By table. A row that is written twice is updated; nobody updates or deletes the audit trail or a grant."""
SEQUENCES = tuple(
    f"ledger_{name}_id_seq" for name in ("invoices", "audit", "runs", "decisions", "moves", "outbox")
)


def grants(role: str = ROLE) -> Iterator[str]:
    """Give the statements, run by the tables' owner, that allow a role what it needs."""
    yield f"GRANT USAGE ON SCHEMA public TO {role}"
    for table, privileges in PRIVILEGES.items():
        yield f"GRANT {', '.join(privileges)} ON {table} TO {role}"
    for sequence in SEQUENCES:
        yield f"GRANT USAGE ON SEQUENCE {sequence} TO {role}"


def refusal(error: DBAPIError, url: DatabaseUrl) -> DatabaseStatementError:
    """Return the error for a statement that the database refused, naming the grant where one is missing."""
    is_forbidden = getattr(error.orig, "sqlstate", None) == FORBIDDEN
    try:
        user, missing = _missing(url) if is_forbidden else ("", [])
    except DBAPIError:
        missing = []
    if not missing:
        return refused_statement(error)
    needed = "; ".join(f"GRANT {each} TO {user}" for each in missing)
    return DatabaseStatementError(
        f"The database user {user} ({url.setting}) may not {' and '.join(missing)}.",
        remedy=f"Nothing of it was written. As the owner of the tables, {needed}; "
        "docs/permissions.md has the whole list.",
        transient=False,
    )


def _missing(url: DatabaseUrl) -> tuple[str, list[str]]:
    engine = create_engine_for(url)
    asked = [
        (f"{privilege} ON {table}", f"has_table_privilege(to_regclass('{table}'), '{privilege}')")
        for table, privileges in PRIVILEGES.items()
        for privilege in privileges
    ]
    asked += [
        (f"USAGE ON SEQUENCE {name}", f"has_sequence_privilege(to_regclass('{name}')::oid, 'USAGE')")
        for name in SEQUENCES
    ]
    try:
        with engine.execution_options(read_only=True).connect() as connection:
            # A table that is not there has no privileges: null, and not missing.
            found = connection.execute(
                sa.select(sa.text("current_user"), *(sa.text(sql) for _, sql in asked))
            )
            user, *allowed = found.one()
    finally:
        engine.dispose()
    return user, [name for (name, _), may in zip(asked, allowed, strict=True) if may is False]
