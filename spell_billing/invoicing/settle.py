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
    bill = await _latest(session, user_id)
    if bill.state is State.SETTLED and bill.reason is settled_as.reason:
        return bill
    _require_open(session, bill)
    await _require_begun(session)
    if bill.reason is Reason.CHANGED_AT_STRIPE and settled_as is SettledAs.BILLED_BY_HAND:
        accepted = await _accepted(connect, bill)
        if accepted is not None:
            (settled,) = await asyncio.to_thread(session.apply, [Change(bill, accepted, "settled", why)])
            await asyncio.to_thread(_finish, session)
            return settled
    if bill.stripe_customer_id and bill.state is not State.SETTLED:
        await _require_nothing_stands(session, connect, bill)
    after = replace(bill, state=State.SETTLED, reason=settled_as.reason, message=why)
    (settled,) = await asyncio.to_thread(session.apply, [Change(bill, after, "settled", why)])
    await asyncio.to_thread(_finish, session)
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


async def _require_begun(session: MonthSession) -> None:
    """Refuse a month whose drafts may still be written anew, unless settling is all that is left."""
    record = await asyncio.to_thread(session.record)
    if record is None or record.billing_started_at is not None:
        return
    review = await asyncio.to_thread(session.review)
    if review is not None and review.needs_approval:
        raise LedgerError(
            f"{session.month} is in review: its drafts may still change.",
            remedy=f"Approve it with `spell-billing approve --month {session.month}`, then settle.",
        )
    if await asyncio.to_thread(session.page, TO_DRIVE, after_id=0, limit=1):
        raise LedgerError(
            f"Billing of {session.month} has not started: its drafts may still change.",
            remedy=f"Bill it first: spell-billing bill --month {session.month}.",
        )
    await asyncio.to_thread(session.start_billing)


async def _accepted(connect: Connect, bill: Bill) -> Bill | None:
    """Return the bill as its changed invoice stands at Stripe; None where it does not stand."""
    try:
        async with connect() as gateway:
            invoice = await retrieve(gateway, str(bill.stripe_invoice_id))
    except StripeProblem as problem:
        raise _not_asked(bill, problem) from None
    if invoice is None or invoice["status"] not in STATE_OF_STATUS or invoice["currency"] != bill.currency:
        return None
    return as_it_stands(bill, invoice)


async def _require_nothing_stands(session: MonthSession, connect: Connect, bill: Bill) -> None:
    """Ask Stripe what stands of the bill: refuse an invoice, delete a draft of ours."""
    try:
        async with connect() as gateway:
            found = await invoices_of_bill(
                gateway, str(bill.stripe_customer_id), session.month, billing_key_of(bill)
            )
            if bill.stripe_invoice_id and all(each["id"] != bill.stripe_invoice_id for each in found):
                own = await retrieve(gateway, bill.stripe_invoice_id)
                found += [own] if own is not None and own["status"] != "void" else []
            standing = [each for each in found if each["status"] != "draft"]
            if standing:
                raise _stands(session, bill, standing)
            for draft in found:
                if not await delete_draft(gateway, draft["id"]):
                    raise _stands(session, bill, [draft])
    except StripeProblem as problem:
        if problem.reason is Reason.UNKNOWN_CUSTOMER:
            return
        raise _not_asked(bill, problem) from None


def _not_asked(bill: Bill, problem: StripeProblem) -> StripeAccountError:
    return StripeAccountError(
        f"Stripe cannot be asked what stands of user {bill.user_id}'s bill: {problem.message}.",
        remedy="Nothing was settled. Check the network and STRIPE_API_KEY, then try again.",
    )


def _stands(session: MonthSession, bill: Bill, standing: list[Invoice]) -> LedgerError:
    ids = ", ".join(f"{each['id']} ({each['status']})" for each in standing)
    return LedgerError(
        f"Of user {bill.user_id}'s bill for {session.month} stands at Stripe: {ids}.",
        remedy=f"Void what is wrong: spell-billing void --month {session.month} --user {bill.user_id}, or at "
        f"Stripe; or take it over with `spell-billing bill --month {session.month} --verify`.",
    )


def _finish(session: MonthSession) -> None:
    if not session.is_undone():
        session.finish_billing()


async def _latest(session: MonthSession, user_id: str) -> Bill:
    bills = await asyncio.to_thread(session.bills_of_users, [user_id])
    own = [bill for bill in bills if bill.user_id == user_id]
    if not own:
        raise LedgerError(
            f"User {user_id} has no bill for {session.month}.",
            remedy="Check the user id and the month; `spell-billing invoices` lists all bills.",
        )
    return max(own, key=lambda bill: bill.generation)
