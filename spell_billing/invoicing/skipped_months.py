"""Months between billed ones that the ledger lacks: it may be from before they were billed."""

import asyncio

from spell_billing.core.errors import LedgerError
from spell_billing.core.keys import MONTH
from spell_billing.core.month import Month
from spell_billing.invoicing.draft_month import LATE_USAGE_MONTHS
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import STATE_OF_STATUS, created_since_close
from spell_billing.ledger.queries import read_months
from spell_billing.ledger.session import MonthSession


async def require_nothing_skipped(session: MonthSession, gateway: Gateway) -> None:
    """Refuse a month whose past is not known: Stripe has invoices of an earlier one that the ledger lacks.

    Raises:
        LedgerError: naming the first of these months.
    """
    skipped = await asyncio.to_thread(_skipped, session)
    if not skipped:
        return
    at_stripe = {
        invoice["metadata"].get(MONTH)
        async for page in gateway.invoices(created=created_since_close(skipped[0]))
        for invoice in page
        if invoice["status"] in STATE_OF_STATUS
    }
    # Asked once more: a run beside this one pins its month before it makes an invoice.
    for month in await asyncio.to_thread(_skipped, session):
        if str(month) in at_stripe:
            raise LedgerError(
                f"Stripe has invoices of {month}, which this ledger never billed: it is older.",
                remedy=f"Nothing was sent. Run first: spell-billing bill --month {month} --verify.",
            )


def _skipped(session: MonthSession) -> list[Month]:
    """Return the months before the session's that were not billed, since the first that was; oldest first.

    As far back as late usage is looked for: older ones change nothing any more.
    """
    billed = {Month.parse(each.month) for each in session.write(read_months) if each.billing_started_at}
    month = min((each for each in billed if each < session.month), default=session.month)
    month, skipped = max(month, session.month.plus(-LATE_USAGE_MONTHS)), []
    while month < session.month:
        if month not in billed:
            skipped.append(month)
        month = month.next()
    return skipped
