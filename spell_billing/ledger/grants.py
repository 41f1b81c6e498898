"""Grants in the ledger: made and taken back, each with an audit entry; and what bills have left of each.

What bills used is read from their lines. A void bill uses nothing; every other one does, also when settled.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from msgspec import UNSET
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError
from spell_billing.core.grants import GRANTED, PAID, REVOKED, Grant, last_month_of
from spell_billing.core.lines import GRANT, Line
from spell_billing.core.money import format_money, is_currency
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.money_tables import grants
from spell_billing.ledger.moves import Heirs, read_heirs
from spell_billing.ledger.queries import lines_told, read_months
from spell_billing.ledger.rows import Actor, Bill
from spell_billing.ledger.schema import invoices

_AS_MADE = ("grant_id", "user_id", "kind", "currency", "amount_cents", "expires_on", "reason")


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHORTEST_NAME = 4
"""Of a user's id: a shorter one may stand in a grant's id by chance."""


@dataclass(frozen=True, slots=True)
class Liability:
    """What is still owed in a currency as service: granted - revoked - applied - expired, in minor units."""

    currency: str
    promotional_cents: int
    paid_cents: int


def read_grants(
    connection: Connection, month: Month, heirs: Heirs, *, only: Collection[str] | None = None
) -> dict[str, list[Grant]]:
    """Return what the drafts of a month may use, by the user who may use it: of those that moved, the heir.

    What the month's drafts used is free, as they are written anew; where `only` some users are drafted, what
    failed and held bills used.
    """
    entries = _entries(connection)
    if not entries:
        return {}
    counts: sa.ColumnElement[bool] = invoices.c.month != str(month)
    if only is not None:
        counts = sa.or_(counts, invoices.c.state.not_in([State.FAILED.value, State.HELD.value]))
    found: defaultdict[str, list[Grant]] = defaultdict(list)
    for each in _with_uses(entries, _uses(connection, counts), billed=()):
        if each.pays_in(month):
            found[heirs.heir_of(each.user_id)].append(each)
    return dict(found)


def read_ledger_grants(connection: Connection, users: Collection[str] | None = None) -> list[Grant]:
    """Return all grants, or those of some users, in the order in which they were made."""
    entries = _entries(connection, users)
    if not entries:
        return []
    billed = [each.month for each in read_months(connection) if each.billed_at is not None]
    return _with_uses(entries, _uses(connection, sa.true()), billed=billed)


def grants_for(connection: Connection, user_id: str) -> list[Grant]:
    """Return the grants that pay for a user's bills: its own, and those of users who moved to it."""
    heirs = read_heirs(connection)
    found = read_ledger_grants(connection, heirs.together_with(user_id))
    return [each for each in found if heirs.heir_of(each.user_id) == user_id]


def read_liability(connection: Connection) -> list[Liability]:
    """Sum what is still owed, by currency; empty where nothing is."""
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in read_ledger_grants(connection):
        if each.is_owed:
            sums[each.currency][each.kind] += each.left_cents
    return [Liability(currency, kinds[GRANTED], kinds[PAID]) for currency, kinds in sorted(sums.items())]


def grant_used_since(connection: Connection, bill: Bill) -> str | None:
    """Return a grant that has too little left for a void bill to count again; None where all have enough."""
    wanted = _used_by(bill.parsed_lines)
    if not wanted:
        return None
    left = {each.grant_id: each.left_cents for each in read_ledger_grants(connection)}
    return next((each for each, cents in sorted(wanted.items()) if left.get(each, 0) < cents), None)


def _entries(
    connection: Connection, users: Collection[str] | None = None
) -> list[sa.Row[tuple[object, ...]]]:
    query = sa.select(grants).order_by(grants.c.number, grants.c.at, grants.c.grant_id)
    if users is not None:
        query = query.where(grants.c.user_id.in_(list(users)))
    return list(connection.execute(query).all())


def _with_uses(entries: Iterable[Any], used: Counter[str], *, billed: Collection[str]) -> list[Grant]:
    revoked: Counter[str] = Counter()
    made = []
    for entry in entries:
        if entry.kind == REVOKED:
            revoked[entry.grant_id] += entry.amount_cents
        else:
            made.append(entry)
    return [
        Grant(
            **{name: getattr(each, name) for name in _AS_MADE},
            granted_at=each.at,
            revoked_cents=revoked[each.grant_id],
            applied_cents=used[each.grant_id],
            is_expired=str(last_month_of(each.expires_on)) in billed,
        )
        for each in made
    ]


def _uses(connection: Connection, counts: sa.ColumnElement[bool]) -> Counter[str]:
    """Sum what bills used of each grant."""
    stands = invoices.c.state != State.VOID.value
    return _used_by(line for _, line in lines_told(connection, {GRANT}, (), counts, stands))


def _used_by(lines: Iterable[Line]) -> Counter[str]:
    used: Counter[str] = Counter()
    for line in lines:
        if line.kind == GRANT and line.grant_id is not UNSET:
            used[line.grant_id] -= line.amount_cents
    return used


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
        content = {name: getattr(grant, name) for name in _AS_MADE}
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
