"""Proof that bills use grants in their order, and no more than there is: not by the code that offers them."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.ledger.money_tables import grants
from spell_billing.ledger.rows import DRAFTED, Bill
from spell_billing.ledger.schema import audit, invoices, moves

_NOT_DUE = frozenset({"grant", "credit", "brought_forward", "remainder", "changed_at_stripe", "forgiven"})

_USES_GRANTS = frozenset({"planned", "drafted", "finalized", "paid", "payment_failed", "skipped"})


def grant_findings(connection: Connection, bills: Mapping[str, Bill]) -> Iterator[Finding]:
    """Return what bills used of grants that are unknown, used up, expired, or another user's.

    Only what touches `bills` is reported: the latest of a month, by user.
    """
    using = {user_id: bill for user_id, bill in bills.items() if bill.late_lines and _uses(bill.lines)}
    if not using:
        return
    made, worth = _made(connection)
    used = _used(connection)
    pairs = connection.execute(sa.select(moves.c.from_user, moves.c.to_user)).all()
    related = _related([(pair.from_user, pair.to_user) for pair in pairs])
    for bill in using.values():
        yield from _overpaid(bill)
        for grant_id, cents in _uses(bill.lines):
            grant = made.get(grant_id)
            if grant is None:
                money = format_money(cents, bill.currency)
                yield _finding(bill, f"a grant {grant_id} in the ledger", f"none, and {money} used of it")
                continue
            if used[grant_id] > worth[grant_id]:
                had, took = (format_money(each, grant.currency) for each in (worth[grant_id], used[grant_id]))
                yield _finding(bill, f"{had} of grant {grant_id}", f"{took} used")
            yield from _not_for(bill, grant, related)


def left_out_findings(connection: Connection, bills: Mapping[str, Bill]) -> Iterator[Finding]:
    """Return grants that a bill should have used, and did not, or not before others.

    A grant that is left today was there when a bill was drafted, if it was made before and no bill gave back
    anything of it since. Where that is not certain, nothing is reported: of users whose usage moved, and of
    bills that were drafted or changed while another of the user, or another month, was.
    """
    made, worth = _made(connection)
    if not any(worth.values()):
        return
    used = _used(connection)
    left: defaultdict[str, list[Any]] = defaultdict(list)
    for grant_id, grant in made.items():
        if worth[grant_id] > used[grant_id]:
            left[grant.user_id].append(grant)
    pairs = connection.execute(sa.select(moves.c.from_user, moves.c.to_user)).all()
    concerned = (bills.keys() & left.keys()).difference(*pairs)
    if not concerned:
        return
    for user_id in sorted(concerned):
        bill = bills[user_id]
        due = list(_due(bill, left[user_id], made)) if bill.state.value in _USES_GRANTS else []
        if not due or not _stood_alone(connection, bill):
            continue
        for grant in due:
            if _was_made(connection, grant):
                cents = format_money(worth[grant.grant_id] - used[grant.grant_id], grant.currency)
                yield _finding(bill, f"grant {grant.grant_id} used up first", f"{cents} of it left")


def _due(bill: Bill, left: list[Any], made: Mapping[str, Any]) -> Iterator[Any]:
    """Return the grants, of those that something is left of, that a bill should have used before others."""
    paid = _uses(bill.lines)
    is_paid = _due_cents(bill) <= sum(cents for _, cents in paid)
    last = max((_order(made[grant_id]) for grant_id, _ in paid if grant_id in made), default=None)
    for grant in sorted(left, key=_order):
        fits = grant.currency == bill.currency and f"{bill.month}-01" < grant.expires_on.isoformat()
        is_its_turn = not is_paid or (last is not None and _order(grant) < last)
        if fits and is_its_turn and grant.at < bill.created_at:
            yield grant


def _order(grant: Any) -> tuple[Any, ...]:
    """Return the order of use: what expires first; what was not bought; what is older."""
    return grant.expires_on, grant.kind == "paid", grant.at, grant.grant_id


def _was_made(connection: Connection, grant: Any) -> bool:
    """Return whether the audit trail knows the grant: one that nobody made is reported as such."""
    made = sa.select(audit.c.id).where(
        audit.c.month == str(Month.containing(grant.at)),
        audit.c.user_id == grant.user_id,
        audit.c.action == "granted",
        audit.c.detail.startswith(f"{grant.grant_id}: ", autoescape=True),
    )
    return connection.execute(made.limit(1)).first() is not None


def _stood_alone(connection: Connection, bill: Bill) -> bool:
    """Return whether no other bill of the user changed, and no other month was drafted anew, beside a bill.

    That is, between its draft and its last change.
    """
    other = invoices.c
    beside = sa.select(other.id).where(
        other.month > "",
        other.user_id == bill.user_id,
        other.id != bill.id,
        other.created_at < bill.updated_at,
        other.updated_at > bill.created_at,
    )
    if connection.execute(beside.limit(1)).first() is not None:
        return False
    drafted = audit.c.user_id.is_(None), audit.c.action == DRAFTED, audit.c.month != bill.month
    # SQLite takes an index for a range only, and all months are one.
    anew = sa.select(audit.c.month).where(audit.c.month > "", *drafted).group_by(audit.c.month)
    first, last = sa.func.min(audit.c.at), sa.func.max(audit.c.at)
    anew = anew.having(sa.and_(first < last, first < bill.updated_at, last > bill.created_at))
    return connection.execute(anew.limit(1)).first() is None


def _made(connection: Connection) -> tuple[dict[str, Any], defaultdict[str, int]]:
    """Return how each grant was made, and what it is worth after what was taken back of it."""
    worth: defaultdict[str, int] = defaultdict(int)
    made: dict[str, Any] = {}
    for row in connection.execute(sa.select(grants)):
        worth[row.grant_id] += -row.amount_cents if row.kind == "revoked" else row.amount_cents
        if row.number == 1:
            made[row.grant_id] = row
    return made, worth


def _used(connection: Connection) -> Counter[str]:
    """Sum what all bills that are not void used of each grant."""
    # SQLite takes an index for a range only, and all months are one.
    standing = sa.select(invoices.c.lines).where(
        invoices.c.month > "", invoices.c.state != "void", invoices.c.late_lines > 0
    )
    used: Counter[str] = Counter()
    for lines in connection.scalars(standing.where(invoices.c.lines.contains('"grant"'))):
        for grant_id, cents in _uses(lines):
            used[grant_id] += cents
    return used


def _related(pairs: Collection[tuple[str, str]]) -> dict[str, set[str]]:
    """Return with whom moves connect each user, in either direction: a move that was undone counts, too."""
    found: dict[str, set[str]] = {}
    for pair in pairs:
        joined = set(pair).union(*(found.get(user_id, ()) for user_id in pair))
        found.update(dict.fromkeys(joined, joined))
    return found


def _not_for(bill: Bill, grant: Any, related: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Check that a grant was for a bill at all: its month, its currency, its user."""
    named = f"grant {grant.grant_id} used"
    if f"{bill.month}-01" >= grant.expires_on.isoformat():
        yield _finding(bill, f"{named} for months before {grant.expires_on}", bill.month)
    if bill.currency != grant.currency:
        yield _finding(bill, f"{named} in {grant.currency}", bill.currency)
    if bill.user_id != grant.user_id and bill.user_id not in related.get(grant.user_id, ()):
        yield _finding(bill, f"{named} by user {grant.user_id}", bill.user_id)


def _overpaid(bill: Bill) -> Iterator[Finding]:
    due_cents = _due_cents(bill)
    paid_cents = sum(cents for _, cents in _uses(bill.lines))
    if paid_cents > max(0, due_cents):
        due, paid = (format_money(each, bill.currency) for each in (due_cents, paid_cents))
        yield _finding(bill, f"at most {due} paid by grants", paid)


def _due_cents(bill: Bill) -> int:
    """Return what a bill comes to before grants and credits."""
    return sum(line["amount_cents"] for line in json.loads(bill.lines) if line["kind"] not in _NOT_DUE)


def _uses(lines: str) -> list[tuple[str, int]]:
    """Return the grants that lines name, with what each pays."""
    found = (line for line in json.loads(lines) if line["kind"] == "grant")
    return [(line.get("grant_id", ""), -line["amount_cents"]) for line in found]


def _finding(bill: Bill, expected: str, found: str) -> Finding:
    return Finding.of(Kind.GRANT_DIFFERS, bill, expected, found)
