"""Plans' fees that bills of a month and of its neighbours charge already."""

from collections import Counter
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.lines import FEE, FEE_IN_ADVANCE, load_lines
from spell_billing.core.month import Month
from spell_billing.core.plans import FeesCharged
from spell_billing.ledger.queries import has_line_of, is_replaced, left_something, read_months
from spell_billing.ledger.schema import invoices


def read_fees(connection: Connection, month: Month, only: Collection[str] | None) -> dict[str, FeesCharged]:
    """Return the fees that the month's drafts must reckon with, by user; of `only` those who are drafted.

    Once the next month is billed, its bills have counted with what this one's charged in advance: a bill that
    is drafted again, alone or with the whole month, charges the same.
    """
    records = {record.month: record for record in read_months(connection)}
    following = records.get(str(month.next()))
    before = _sums(connection, month.previous(), FEE_IN_ADVANCE, only)
    after = _sums(connection, month.next(), FEE, only) if following else {}
    kept: dict[str, int] = {}
    if following is not None and following.billing_started_at is not None:
        drafted = connection.scalars(sa.select(invoices.c.user_id).where(invoices.c.month == str(month)))
        kept = dict.fromkeys(drafted if only is None else only, 0)
        kept |= _sums(connection, month, FEE_IN_ADVANCE, only)
    return {
        user_id: FeesCharged(before.get(user_id, 0), after.get(user_id, 0), kept.get(user_id))
        for user_id in before.keys() | after.keys() | kept.keys()
    }


def _sums(connection: Connection, month: Month, kind: str, only: Collection[str] | None) -> dict[str, int]:
    """Sum the lines of a kind on the month's latest bills, by user."""
    query = sa.select(invoices.c.user_id, invoices.c.lines).where(
        invoices.c.month == str(month), ~is_replaced(), has_line_of(kind)
    )
    if kind == FEE_IN_ADVANCE:
        query = query.where(left_something(connection), invoices.c.late_lines > 0)
    found: Counter[str] = Counter()
    for user_id, lines in connection.execute(query):
        if only is None or user_id in only:
            found[user_id] += sum(line.amount_cents for line in load_lines(lines) if line.kind == kind)
    return found
