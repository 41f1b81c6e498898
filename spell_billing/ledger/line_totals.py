"""Sums over the lines of bills, for kinds of line that have no column of their own."""

from collections import defaultdict
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.lines import load_lines
from spell_billing.core.month import Month
from spell_billing.ledger.queries import latest_generation, left_something
from spell_billing.ledger.schema import invoices


def line_totals(connection: Connection, month: Month, kinds: Collection[str]) -> dict[str, dict[str, int]]:
    """Sum the lines of these kinds on the month's latest bills, by kind and currency, in minor units."""
    sums: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    rows = connection.execute(
        sa.select(invoices.c.currency, invoices.c.lines)
        .where(left_something(connection), invoices.c.late_lines > 0, latest_generation(month))
        .where(sa.or_(*(has_line_of(kind) for kind in kinds)))
    )
    for currency, lines in rows:
        for line in load_lines(lines):
            if line.kind in kinds:
                sums[line.kind][currency] += line.amount_cents
    return {kind: dict(found) for kind, found in sums.items()}


def has_line_of(kind: str) -> sa.ColumnElement[bool]:
    """Return the condition for bills that have a line of this kind."""
    return invoices.c.lines.contains(f'"kind":"{kind}"')
