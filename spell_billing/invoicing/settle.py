"""Settling one user's bill: a person dealt with it, so that nobody waits for an invoice of it any more."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from enum import StrEnum

from spell_billing.core.errors import LedgerError, StripeAccountError
from spell_billing.core.outcomes import INVOICED, TO_DRIVE, UNDONE, Reason, State
from spell_billing.invoicing.by_hand import as_it_stands
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import STATE_OF_STATUS, delete_draft, invoices_of_bill, retrieve
from spell_billing.invoicing.requests import billing_key_of
from spell_billing.invoicing.void import latest_bill
from spell_billing.ledger.rows import Bill, Change
from spell_billing.ledger.session import MonthSession
from spell_billing.stripe_api.client import Invoice
from spell_billing.stripe_api.problems import StripeProblem

Connect = Callable[[], AbstractAsyncContextManager[Gateway]]
"""Opens the gateway to Stripe; called only for a bill of which something may stand there."""


class SettledAs(StrEnum):
    """How a person dealt with a bill, as on the command line."""

    BILLED_BY_HAND = "billed-by-hand"
    WRITTEN_OFF = "written-off"

    @property
    def reason(self) -> Reason:
        """The reason that the bill gets."""
        return Reason.BILLED_BY_HAND if self is SettledAs.BILLED_BY_HAND else Reason.WRITTEN_OFF


async def settle_bill(
    session: MonthSession, connect: Connect, user_id: str, settled_as: SettledAs, why: str
) -> Bill:
    """Close the user's latest bill. The month is billed once nothing else is left in it.

    Args:
        session: Holds the month's lock.
        connect: Opens the gateway to Stripe.
        user_id: The platform's user.
        settled_as: Billed by hand counts as charged for later usage; written off as neither charged nor due.
            An invoice that was changed at Stripe is accepted as billed by hand: it stands with its own total.
        why: A person's reason, for the audit trail.

    Returns:
        The settled bill. To settle it again the same way changes nothing; another way corrects the first.

    Raises:
        LedgerError: when there is nothing to settle, the month is in review or not begun, or an invoice of
            the bill stands at Stripe.
        StripeAccountError: when Stripe does not say what stands; nothing is written.
    """
    bill = await latest_bill(session, user_id)
    if bill.state is State.SETTLED and bill.reason is settled_as.reason:
        return bill
    _require_open(session, bill)
    await asyncio.to_thread(_require_begun, session)
    after = None
    try:
        if bill.reason is Reason.CHANGED_AT_STRIPE and settled_as is SettledAs.BILLED_BY_HAND:
            after = await _accepted(connect, bill)
        if after is None and bill.stripe_customer_id and bill.state is not State.SETTLED:
            await _require_nothing_stands(session, connect, bill)
    except StripeProblem as problem:
        raise StripeAccountError(
            f"Stripe cannot be asked what stands of user {bill.user_id}'s bill: {problem.message}.",
            remedy="Nothing was settled. Check the network and STRIPE_API_KEY, then try again.",
        ) from None
    if after is None:
        after = replace(bill, state=State.SETTLED, reason=settled_as.reason, message=why)
    return await asyncio.to_thread(_settle, session, Change(bill, after, "settled", why))


def _settle(session: MonthSession, change: Change) -> Bill:
    (settled,) = session.apply([change])
    if not session.is_undone():
        session.finish_billing()
    return settled


def _require_open(session: MonthSession, bill: Bill) -> None:
    void = bill.state is State.VOID and bill.reason in {Reason.VOIDED, Reason.WRITTEN_OFF}
    if bill.state in UNDONE or bill.state is State.SETTLED or void:
        return
    named = f"The bill of user {bill.user_id} for {session.month} is {bill.state}"
    if bill.state in INVOICED:
        raise LedgerError(
            f"{named}: invoice {bill.stripe_invoice_id} stands at Stripe.",
            remedy=f"Void it first: spell-billing void --month {session.month} --user {bill.user_id}.",
        )
    raise LedgerError(f"{named}: nothing of it is open.", remedy="There is nothing to settle.")


def _require_begun(session: MonthSession) -> None:
    """Refuse a month whose drafts may still be written anew, unless settling is all that is left."""
    record, review = session.record(), session.review()
    if record is None or record.billing_started_at is not None:
        return
    if review is not None and review.needs_approval:
        raise LedgerError(
            f"{session.month} is in review: its drafts may still change.",
            remedy=f"Approve it with `spell-billing approve --month {session.month}`, then settle.",
        )
    if session.page(TO_DRIVE, after_id=0, limit=1):
        raise LedgerError(
            f"Billing of {session.month} has not started: its drafts may still change.",
            remedy=f"Bill it first: spell-billing bill --month {session.month}.",
        )
    session.start_billing()


async def _accepted(connect: Connect, bill: Bill) -> Bill | None:
    """Return the bill as its changed invoice stands at Stripe; None where it does not stand."""
    async with connect() as gateway:
        invoice = await retrieve(gateway, str(bill.stripe_invoice_id))
    if invoice is None or invoice["status"] not in STATE_OF_STATUS or invoice["currency"] != bill.currency:
        return None
    return as_it_stands(bill, invoice)


async def _require_nothing_stands(session: MonthSession, connect: Connect, bill: Bill) -> None:
    """Ask Stripe what stands of the bill: refuse an invoice, delete a draft of ours."""
    customer_id, key = str(bill.stripe_customer_id), billing_key_of(bill)
    async with connect() as gateway:
        try:
            found = await invoices_of_bill(gateway, customer_id, session.month, key)
            if bill.stripe_invoice_id and all(each["id"] != bill.stripe_invoice_id for each in found):
                own = await retrieve(gateway, bill.stripe_invoice_id)
                found += [own] if own is not None and own["status"] != "void" else []
            standing = [each for each in found if each["status"] != "draft"]
            if not standing:
                standing = [draft for draft in found if not await delete_draft(gateway, draft["id"])]
        except StripeProblem as problem:
            if problem.reason is not Reason.UNKNOWN_CUSTOMER:
                raise
            return
    if standing:
        raise _stands(session, bill, standing)


def _stands(session: MonthSession, bill: Bill, standing: list[Invoice]) -> LedgerError:
    ids = ", ".join(f"{each['id']} ({each['status']})" for each in standing)
    return LedgerError(
        f"Of user {bill.user_id}'s bill for {session.month} stands at Stripe: {ids}.",
        remedy=f"Void what is wrong: spell-billing void --month {session.month} --user {bill.user_id}, or at "
        f"Stripe; or take it over with `spell-billing bill --month {session.month} --verify`.",
    )
