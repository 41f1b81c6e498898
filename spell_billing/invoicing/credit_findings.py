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


def credit_findings(connection: Connection, bills: Mapping[str, Bill]) -> Iterator[Finding]:
    """Return credits that bills used without having been granted them, over all months and in their order.

    Args:
        connection: To the ledger, for reading.
        bills: The latest bills of a month by user; only credits that these touch are told.
    """
    heirs = read_heirs(connection)
    rows = connection.execute(
        sa.select(
            invoices.c.month,
            invoices.c.user_id,
            invoices.c.currency,
            sa.func.sum(invoices.c.carried_cents),
            sa.func.sum(invoices.c.credit_applied_cents),
        )
        # SQLite takes an index for a range only, and all months are one.
        .where(invoices.c.month > "", invoices.c.state != State.VOID.value)
        .where(sa.or_(invoices.c.carried_cents > 0, invoices.c.credit_applied_cents > 0))
        .group_by(invoices.c.month, invoices.c.user_id, invoices.c.currency)
        .order_by(invoices.c.month)
    ).all()
    granted: defaultdict[tuple[str, str], int] = defaultdict(int)
    used: defaultdict[tuple[str, str], int] = defaultdict(int)
    too_early: dict[tuple[str, str], tuple[str, int, int]] = {}
    for month, of_month in groupby(rows, key=lambda row: str(row.month)):
        of_month_rows = [((heirs.heir_of(row[1]), row[2]), int(row[3]), int(row[4])) for row in of_month]
        for key, _, applied in of_month_rows:
            used[key] += applied
            if used[key] > granted[key]:
                too_early.setdefault(key, (month, granted[key], used[key]))
        # What a month grants is for later ones.
        for key, carried, _ in of_month_rows:
            granted[key] += carried
    settled = sa.select(decisions.c.user_id, decisions.c.content_hash).where(
        decisions.c.kind == "credit_settled"
    )
    for user_id, content in connection.execute(settled):
        currency, _, cents = content.partition(":")
        used[heirs.heir_of(user_id), currency] += int(cents)
    for user_id, bill in bills.items():
        key = (heirs.heir_of(user_id), bill.currency)
        if (bill.credit_applied_cents or bill.carried_cents) and used[key] > granted[key]:
            yield Finding(
                Kind.CREDIT_NOT_GRANTED,
                bill.user_id,
                bill.stripe_invoice_id,
                f"{format_money(granted[key], bill.currency)} of credits granted",
                f"{format_money(used[key], bill.currency)} used",
            )
        elif key in too_early and too_early[key][0] == bill.month:
            month, before, taken = too_early[key]
            yield Finding(
                Kind.CREDIT_NOT_GRANTED,
                bill.user_id,
                bill.stripe_invoice_id,
                f"{format_money(before, bill.currency)} of credits granted before {month}",
                f"{format_money(taken, bill.currency)} used",
            )
