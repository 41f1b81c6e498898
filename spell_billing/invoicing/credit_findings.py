"""Proof that no credit pays for more than it is worth, apart from the code that offers them."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import format_money
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.ledger.moves import Heirs, read_heirs
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import decisions, invoices

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
