"""Proof that no credit or grant pays for more than it is worth, apart from the code that offers them."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import format_money
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.ledger.money_tables import grants
from spell_billing.ledger.moves import Heirs, read_heirs
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import decisions, invoices, moves

_Key = tuple[str, str, int]
"""A user, a currency, and which side: 1 for credits of the user, -1 for remainders left to be charged."""


@dataclass(slots=True)
class _Side:
    """What bills granted and used of one side of a user's balance, month after month, above zero.

    `missing` is the most that was used beyond what was granted by then; `gone` was granted by invoices that
    became void after it was used. `too_early` is the first month that used more than was there, with
    both sums.
    """

    granted: int = 0
    used: int = 0
    missing: int = 0
    gone: int = 0
    void: list[Any] = field(default_factory=list)
    too_early: tuple[str, int, int] = ("", 0, 0)

    def use(self, row: Any) -> None:
        """Add what a bill used."""
        cents = abs(row.credit_applied_cents)
        was_there = (each for each in self.void if each.created_at <= row.created_at < each.updated_at)
        gone_cents = min(cents, sum(abs(each.carried_cents) for each in was_there))
        self.used += cents
        self.gone += gone_cents
        self.missing = max(self.missing, self.used - self.granted)
        if self.used > self.granted + gone_cents and not self.too_early[0]:
            self.too_early = (row.month, self.granted, self.used)


def credit_findings(connection: Connection, bills: Mapping[str, Bill]) -> Iterator[Finding]:
    """Return credits and remainders that bills used without having been granted them, month after month.

    Only those are reported that touch `bills`: the latest of a month, by user.
    """
    heirs = read_heirs(connection)
    sides = _sides(connection, heirs)
    for user_id, bill in bills.items():
        for side in (1, -1):
            owner = (heirs.heir_of(user_id), bill.currency)
            of, other = sides[*owner, side], sides[*owner, -side]
            when, had, took = "", of.granted, of.used
            # A month that was billed again takes off what a later one charged for its bill before; and the
            # next bill, a remainder that was charged although its own invoice is void now.
            made_up = max(other.missing, other.gone)
            is_touched = bill.credit_applied_cents or bill.carried_cents
            if not (is_touched and took > had + max(made_up, of.gone)):
                month, had, took = of.too_early
                if month != bill.month or took <= had + made_up:
                    continue
                when = f" before {month}"
            yield Finding.of(
                Kind.CREDIT_NOT_GRANTED,
                bill,
                f"{format_money(had, bill.currency)} of credits granted{when}",
                f"{format_money(took, bill.currency)} used",
            )


def _sides(connection: Connection, heirs: Heirs) -> defaultdict[_Key, _Side]:
    """Read what all bills granted and used, in the order of the months."""
    bill = invoices.c
    rows = connection.execute(
        sa.select(bill.month, bill.user_id, bill.currency, bill.carried_cents, bill.credit_applied_cents)
        .add_columns((bill.state == "void").label("is_void"), bill.created_at, bill.updated_at)
        # SQLite takes an index for a range only, and all months are one.
        .where(bill.month > "", sa.or_(bill.state != "void", bill.carried_cents < 0))
        .where(sa.or_(bill.carried_cents != 0, bill.credit_applied_cents != 0))
        .order_by(bill.month)
    ).all()
    sides: defaultdict[_Key, _Side] = defaultdict(_Side)
    for _, of_month in groupby(rows, key=lambda row: str(row.month)):
        entries = [((heirs.heir_of(row.user_id), row.currency), row) for row in of_month]
        for owner, row in entries:
            if not row.is_void:
                sides[*owner, 1 if row.credit_applied_cents > 0 else -1].use(row)
        # What a month grants is for later ones.
        for owner, row in entries:
            side = sides[*owner, 1 if row.carried_cents > 0 else -1]
            if row.is_void:
                side.void.append(row)
            else:
                side.granted += abs(row.carried_cents)
    settled = sa.select(decisions.c.user_id, decisions.c.content_hash).where(
        decisions.c.kind == "credit_settled"
    )
    for user_id, content in connection.execute(settled):
        if read := read_settled(content):
            sides[heirs.heir_of(user_id), read[0], 1].used += read[1]
    return sides


def read_settled(content: str | None) -> tuple[str, int] | None:
    """Return the currency and the amount of a credit that a person settled; None if unreadable."""
    read = _SETTLED.fullmatch(content or "")
    return (read[1], int(read[2])) if read else None


_SETTLED = re.compile(r"([^:]+):(-?[0-9]+)")
_NOT_DUE = frozenset({"grant", "credit", "brought_forward", "remainder", "changed_at_stripe", "forgiven"})


def grant_findings(connection: Connection, bills: Mapping[str, Bill]) -> Iterator[Finding]:
    """Return what bills used of grants that are unknown, used up, expired, or another user's.

    Only what touches `bills` is reported: the latest of a month, by user.
    """
    using = {user_id: bill for user_id, bill in bills.items() if bill.late_lines and _uses(bill.lines)}
    if not using:
        return
    worth: defaultdict[str, int] = defaultdict(int)
    made: dict[str, Any] = {}
    for row in connection.execute(sa.select(grants)):
        worth[row.grant_id] += -row.amount_cents if row.kind == "revoked" else row.amount_cents
        if row.number == 1:
            made[row.grant_id] = row
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
    due_cents = sum(line["amount_cents"] for line in json.loads(bill.lines) if line["kind"] not in _NOT_DUE)
    paid_cents = sum(cents for _, cents in _uses(bill.lines))
    if paid_cents > max(0, due_cents):
        due, paid = (format_money(each, bill.currency) for each in (due_cents, paid_cents))
        yield _finding(bill, f"at most {due} paid by grants", paid)


def _uses(lines: str) -> list[tuple[str, int]]:
    """Return the grants that lines name, with what each pays."""
    found = (line for line in json.loads(lines) if line["kind"] == "grant")
    return [(line.get("grant_id", ""), -line["amount_cents"]) for line in found]


def _finding(bill: Bill, expected: str, found: str) -> Finding:
    return Finding.of(Kind.GRANT_DIFFERS, bill, expected, found)
