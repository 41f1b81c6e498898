"""Earlier months that Stripe has more invoices of than the ledger: it may be from before these were sent."""

import asyncio
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.invoicing.draft_month import LATE_USAGE_MONTHS
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import STATE_OF_STATUS, created_since_close
from spell_billing.invoicing.payment_facts import bill_named_by
from spell_billing.ledger.queries import read_months
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession


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
        known = await asyncio.to_thread(session.write, _known, found)
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


def _known(connection: Connection, invoice_ids: Collection[str]) -> set[str]:
    query = sa.select(invoices.c.stripe_invoice_id).where(invoices.c.stripe_invoice_id.in_([*invoice_ids]))
    return set(connection.scalars(query))
