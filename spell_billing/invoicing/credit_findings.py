"""Proof that no credit was used before it was granted, apart from the code that offers credits."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import format_money
from spell_billing.core.outcomes import State
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.ledger.moves import read_heirs
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import decisions, invoices

_Key = tuple[str, str, int]
"""A user, a currency, and which side: 1 for credits of the user, -1 for remainders left to be charged."""


def credit_findings(connection: Connection, bills: Mapping[str, Bill]) -> Iterator[Finding]:
    """Return credits and remainders that bills used without having been granted them, month after month.

    Only those are reported that touch `bills`: the latest of a month, by user.
    """
    heirs = read_heirs(connection)
    rows = connection.execute(
        sa.select(
            *(invoices.c.month, invoices.c.user_id, invoices.c.currency),
            *(invoices.c.carried_cents, invoices.c.credit_applied_cents),
        )
        # SQLite takes an index for a range only, and all months are one.
        .where(invoices.c.month > "", invoices.c.state != State.VOID.value)
        .where(sa.or_(invoices.c.carried_cents != 0, invoices.c.credit_applied_cents != 0))
        .order_by(invoices.c.month)
    ).all()
    granted: defaultdict[_Key, int] = defaultdict(int)
    used: defaultdict[_Key, int] = defaultdict(int)
    too_early: dict[_Key, tuple[str, int, int]] = {}
    for month, of_month in groupby(rows, key=lambda row: str(row.month)):
        entries = [((heirs.heir_of(row[1]), row[2]), row[3], row[4]) for row in of_month]
        for owner, _, applied in entries:
            key = (*owner, 1 if applied > 0 else -1)
            used[key] += abs(applied)
            if used[key] > granted[key]:
                too_early.setdefault(key, (month, granted[key], used[key]))
        # What a month grants is for later ones.
        for owner, carried, _ in entries:
            granted[*owner, 1 if carried > 0 else -1] += abs(carried)
    settled = sa.select(decisions.c.user_id, decisions.c.content_hash).where(
        decisions.c.kind == "credit_settled"
    )
    for user_id, content in connection.execute(settled):
        currency, _, cents = content.partition(":")
        used[heirs.heir_of(user_id), currency, 1] += int(cents)
    for user_id, bill in bills.items():
        for side in (1, -1):
            key = (heirs.heir_of(user_id), bill.currency, side)
            when, had, took = "", granted[key], used[key]
            if not ((bill.credit_applied_cents or bill.carried_cents) and took > had):
                month, had, took = too_early.get(key, ("", 0, 0))
                if month != bill.month:
                    continue
                when = f" before {month}"
            yield Finding.of(
                Kind.CREDIT_NOT_GRANTED,
                bill,
                f"{format_money(had, bill.currency)} of credits granted{when}",
                f"{format_money(took, bill.currency)} used",
            )
