"""Where a month stands: the one definition that commands, pages, metrics, sensors and schedule share."""

from datetime import datetime
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import UNDONE, Reason, State
from spell_billing.ledger.queries import is_replaced
from spell_billing.ledger.reviews import Review
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.schema import invoices, months

MonthState = Literal["open", "unbilled", "in_review", "partial", "billed"]


def state_of_month(
    month: Month, record: MonthRecord | None, review: Review | None, *, undone: bool, now: datetime
) -> MonthState:
    """Return where a month stands at the aware datetime `now`.

    Args:
        month: The month.
        record: The ledger's record of it; None when it was never drafted.
        review: The review of its drafts.
        undone: Whether any user's latest bill is undone; see `is_undone`.
        now: The present.
    """
    if record is None or record.billing_started_at is None:
        if is_in_review(record, review):
            return "in_review"
        return "unbilled" if month.is_closed(now) else "open"
    return "billed" if record.billed_at is not None and not undone else "partial"


def is_undone(state: State, reason: Reason | None) -> bool:
    """Return whether a user's latest bill keeps the month from being billed.

    So does a bill without an invoice, one that somebody must look at, and one that was voided to be billed
    again.
    """
    return state in UNDONE or (state is State.VOID and reason is Reason.VOIDED)


def is_in_review(record: MonthRecord | None, review: Review | None) -> bool:
    """Return whether a month's drafts wait for a person to approve them."""
    drafted = record is not None and record.billing_started_at is None
    return drafted and review is not None and review.needs_approval


def undone_months(connection: Connection, *among: Month) -> set[Month]:
    """Return the drafted months, or those of them among the given, in which some user's bill is undone."""
    voided = sa.and_(invoices.c.state == State.VOID.value, invoices.c.reason == Reason.VOIDED.value)
    undone = [
        sa.exists().where(invoices.c.month == months.c.month, condition, ~is_replaced())
        for condition in (invoices.c.state.in_([state.value for state in UNDONE]), voided)
    ]
    query = sa.select(months.c.month).where(sa.or_(*undone))
    if among:
        query = query.where(months.c.month.in_([str(month) for month in among]))
    return {Month.parse(month) for month in connection.scalars(query)}
