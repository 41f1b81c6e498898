"""Grants in the ledger, and what bills have left of each.

What bills used is read from their lines. A void bill uses nothing; every other one does, also when settled.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from msgspec import UNSET
from sqlalchemy.engine import Connection

from spell_billing.core.grants import GRANTED, PAID, REVOKED, Grant, last_month_of
from spell_billing.core.lines import GRANT, Line
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.money_tables import grants
from spell_billing.ledger.moves import Heirs, read_heirs
from spell_billing.ledger.queries import lines_told, read_months
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import invoices

AS_MADE = ("grant_id", "user_id", "kind", "currency", "amount_cents", "expires_on", "reason")


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
            **{name: getattr(each, name) for name in AS_MADE},
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
