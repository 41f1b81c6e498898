"""Making grants and taking them back, each with its entry in the audit trail."""

import re
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError
from spell_billing.core.grants import GRANTED, PAID, REVOKED, Grant
from spell_billing.core.money import format_money, is_currency
from spell_billing.core.month import Month
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.grants import AS_MADE, read_ledger_grants
from spell_billing.ledger.money_tables import grants
from spell_billing.ledger.rows import Actor

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHORTEST_NAME = 4
"""Of a user's id: a shorter one may stand in a grant's id by chance."""


def add_grant(
    connection: Connection,
    grant_id: str,
    user_id: str,
    amount_cents: int,
    currency: str,
    *,
    expires_on: date,
    is_paid: bool,
    reason: str,
    actor: Actor,
    now: datetime,
) -> bool:
    """Make a grant, in the connection's transaction; return False where it was made before.

    Raises:
        LedgerError: when another grant has the id, or it would pay for nothing.
    """
    content = {
        "grant_id": grant_id,
        "user_id": user_id,
        "kind": PAID if is_paid else GRANTED,
        "currency": currency,
        "amount_cents": amount_cents,
        "expires_on": expires_on,
        "reason": reason,
    }
    made = connection.execute(
        sa.select(grants).where(grants.c.grant_id == grant_id, grants.c.number == 1)
    ).first()
    if made is not None:
        other = [name for name, value in content.items() if getattr(made, name) != value]
        if other:
            raise LedgerError(
                f"Grant {grant_id} already exists with another {', '.join(other)}.",
                remedy="See it with `spell-billing grants`; give a new grant an id of its own.",
            )
        return False
    _require_sound(grant_id, user_id, currency, expires_on, now)
    _write(connection, {**content, "number": 1}, actor, now)
    return True


def revoke_grant(connection: Connection, grant_id: str, *, reason: str, actor: Actor, now: datetime) -> Grant:
    """Take back what is left of a grant; return the grant as it was before. Safe to repeat.

    Raises:
        LedgerError: when there is no such grant.
    """
    grant = next((each for each in read_ledger_grants(connection) if each.grant_id == grant_id), None)
    if grant is None:
        raise LedgerError(
            f"There is no grant {grant_id}.", remedy="`spell-billing grants` lists all of them."
        )
    if grant.left_cents > 0:
        newest = sa.select(sa.func.max(grants.c.number)).where(grants.c.grant_id == grant_id)
        content = {name: getattr(grant, name) for name in AS_MADE}
        content |= {"kind": REVOKED, "amount_cents": grant.left_cents, "reason": reason}
        _write(connection, {**content, "number": connection.scalars(newest).one() + 1}, actor, now)
    return grant


def _require_sound(grant_id: str, user_id: str, currency: str, expires_on: date, now: datetime) -> None:
    if not _ID.fullmatch(grant_id):
        raise LedgerError(
            f"{grant_id!r} is no id for a grant.",
            remedy="Write up to 64 letters, digits, dots, dashes or underscores, as welcome-2026-0417.",
        )
    if len(user_id) >= _SHORTEST_NAME and user_id.lower() in grant_id.lower():
        raise LedgerError(
            f"The id of grant {grant_id} names the user, and stays on invoices when the user is erased.",
            remedy="Give the grant an id that names nobody.",
        )
    if not is_currency(currency):
        raise LedgerError(
            f"{currency!r} is not a currency.", remedy="Write a three-letter code in lower case, as usd."
        )
    if expires_on <= now.date():
        raise LedgerError(
            f"Grant {grant_id} would have expired on {expires_on}.", remedy="Give a day that is to come."
        )


def _write(connection: Connection, entry: dict[str, Any], actor: Actor, now: datetime) -> None:
    connection.execute(grants.insert().values(at=now, actor=actor.name, **entry))
    money = format_money(entry["amount_cents"], entry["currency"])
    what = f"{entry['grant_id']}: {money}, {entry['kind']}, expires {entry['expires_on']}"
    action = "grant_revoked" if entry["kind"] == REVOKED else "granted"
    told = {"month": str(Month.containing(now)), "user_id": entry["user_id"], "action": action}
    write_audit(connection, actor, now, {**told, "detail": f"{what}: {entry['reason']}"})
