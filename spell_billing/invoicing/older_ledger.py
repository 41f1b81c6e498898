"""Keeps a ledger that is older than invoices at Stripe from billing what a person had dealt with.

Earlier months that Stripe has more invoices of than the ledger stop the month: the ledger may be from before
these were sent.

An invoice is finalized only after the ledger has its id. So a run that was killed leaves no finalized
invoice whose id the ledger lacks: such a one shows that the ledger was restored from a backup, or that
another one bills the account. What people decided since then, as grants and settled bills, is nowhere else.
"""

import asyncio

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError
from spell_billing.core.late import LATE_USAGE_MONTHS
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.core.review import Code
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import STATE_OF_STATUS, created_since_close
from spell_billing.invoicing.payment_facts import bill_named_by
from spell_billing.invoicing.review import hold_everybody
from spell_billing.ledger import reviews
from spell_billing.ledger.cursors import note_older, noted_older
from spell_billing.ledger.queries import read_bills, read_months
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession
from spell_billing.ledger.unpaid import bills_of_invoices

_WHY = (
    "Stripe had invoices of the month that this ledger lacked, as after a backup was restored: enter again "
    "who got a grant, was settled, held or moved since the backup; then release --all"
)


async def require_nothing_skipped(session: MonthSession, gateway: Gateway) -> None:
    """Refuse a month whose past is not known: Stripe has invoices of an earlier one that the ledger lacks.

    Raises:
        LedgerError: naming the first of these months.
    """
    months = await asyncio.to_thread(session.write, _not_all_sent, session.month)
    if not months:
        return
    lacking: set[str] = set()
    async for page in gateway.invoices(created=created_since_close(Month.parse(min(months)))):
        found = {
            str(invoice["id"]): name.month
            for invoice in page
            if invoice["status"] in STATE_OF_STATUS
            and (name := bill_named_by(invoice)) is not None
            and name.month in months
        }
        # A run beside this one has committed an invoice's id before it finalizes the invoice.
        known = await asyncio.to_thread(session.write, bills_of_invoices, found)
        lacking |= {month for invoice_id, month in found.items() if invoice_id not in known}
    if lacking:
        month = min(lacking)
        what = "more than this ledger has" if months[month] else "which this ledger never billed"
        raise LedgerError(
            f"Stripe has invoices of {month}, {what}: the ledger is older.",
            remedy=f"Nothing was sent. Run first: spell-billing bill --month {month} --verify.",
        )


def _not_all_sent(connection: Connection, before: Month) -> dict[str, bool]:
    """Return the months since the first billed one that have bills to send, and whether they were begun.

    As far back as late usage is looked for: older ones change nothing any more.
    """
    begun = {Month.parse(each.month) for each in read_months(connection) if each.billing_started_at}
    first = min((each for each in begun if each < before), default=before)
    months = max(first, before.plus(-LATE_USAGE_MONTHS)).through(before.previous())
    planned = sa.select(invoices.c.month).where(
        invoices.c.month.in_([str(month) for month in months]), invoices.c.state == State.PLANNED.value
    )
    left = set(connection.scalars(planned.distinct()))
    return {str(month): month in begun for month in months if month not in begun or str(month) in left}


def note_lost_decisions(session: MonthSession) -> None:
    """Note it before the first such invoice is adopted: afterwards nothing shows it any more.

    Where the month's own review told of it, a person has approved the month knowing it.
    """
    with session.writing() as connection:
        review = reviews.read_review(connection, session.month)
        found = review.findings if review else ()
        if Code.DECISIONS_LOST not in {finding["code"] for finding in found}:
            note_older(connection, session.month)


def hold_where_decisions_are_lost(session: MonthSession) -> None:
    """Hold the bills that are left to send until a person has looked, once for each time it was noted."""
    month = session.month
    with session.writing() as connection:
        noted_at = noted_older(connection, month)
        if noted_at is None:
            return
        for each in reviews.read_decisions(connection, month):
            if each.kind is reviews.DecisionKind.HELD and each.user_id is None and each.at > noted_at:
                return
        if read_bills(connection, month, states={State.PLANNED}, limit=1):
            hold_everybody(connection, month, session.actor, _WHY)
