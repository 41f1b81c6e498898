"""Voiding one user's invoice: explicit, audited, and refused where billing again would leave two."""

import asyncio
from dataclasses import replace

from spell_billing.core.errors import LedgerError, StripeAccountError
from spell_billing.core.keys import LONGEST_METADATA, MONTH, USER
from spell_billing.core.outcomes import INVOICED, Reason, State
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.lookups import created_since_close, retrieve
from spell_billing.ledger.rows import Bill, Change
from spell_billing.ledger.session import MonthSession
from spell_billing.stripe_api.problems import StripeProblem

VOID = "POST /v1/invoices/{invoice}/void"


async def latest_bill(session: MonthSession, user_id: str) -> Bill:
    """Return the user's bill of the session's month, in its latest generation.

    Raises:
        LedgerError: when there is none.
    """
    bills = await asyncio.to_thread(session.bills_of_users, [user_id])
    own = [bill for bill in bills if bill.user_id == user_id]
    if not own:
        raise LedgerError(
            f"User {user_id} has no bill for {session.month}.",
            remedy="Check the user id and the month; `spell-billing invoices` lists all bills.",
        )
    return max(own, key=lambda bill: bill.generation)


async def void_bill(
    session: MonthSession, gateway: Gateway, user_id: str, why: str, *, for_good: bool
) -> Bill:
    """Void the user's invoice at Stripe and in the ledger. Repeating it completes what was interrupted.

    Args:
        session: Holds the month's lock.
        gateway: To Stripe.
        user_id: The platform's user.
        why: A person's reason, for the audit trail.
        for_good: Do not bill the user again for this month.

    Returns:
        The voided bill. Unless `for_good`, the next run bills the user again as a new generation. A bill that
        waits for that run can still be voided for good.

    Raises:
        LedgerError: when there is nothing to void, it is paid, or another invoice of the bill stands.
        StripeAccountError: when Stripe does not answer or refuses.
    """
    bill = await latest_bill(session, user_id)
    request_id = bill.stripe_request_id
    if not (for_good and bill.reason is Reason.VOIDED):
        if bill.state not in INVOICED | {State.PARKED} or bill.stripe_invoice_id is None:
            raise LedgerError(
                f"User {user_id} has no invoice to void for {session.month}: the bill is {bill.state}.",
                remedy="See `spell-billing explain` for what became of it.",
            )
        try:
            request_id = await _void_at_stripe(session, gateway, bill, why)
        except StripeProblem as problem:
            raise StripeAccountError(
                f"Stripe did not void {bill.stripe_invoice_id}: {problem.message}",
                remedy="Run the command again; it finds out what became of it.",
            ) from None
    reason = Reason.WRITTEN_OFF if for_good else Reason.VOIDED
    after = replace(bill, state=State.VOID, reason=reason, message=why, stripe_request_id=request_id)
    (voided,) = await asyncio.to_thread(session.apply, [Change(bill, after, "voided", why)])
    return voided


async def _void_at_stripe(session: MonthSession, gateway: Gateway, bill: Bill, why: str) -> str | None:
    """Make sure that the invoice does not stand; return the id of the request that voided it, if any."""
    invoice_id = str(bill.stripe_invoice_id)
    invoice = await retrieve(gateway, invoice_id)
    if invoice is not None and invoice["status"] == "paid":
        raise LedgerError(
            f"Invoice {invoice_id} of user {bill.user_id} is paid, and Stripe voids no paid invoice.",
            remedy=f"Give it back: spell-billing credit --month {session.month} --user {bill.user_id} --all "
            "--reason ...",
        )
    # Of any generation.
    others = [
        each["id"]
        async for page in gateway.invoices(
            customer=bill.stripe_customer_id, created=created_since_close(session.month)
        )
        for each in page
        if each["metadata"].get(MONTH) == bill.month
        and each["metadata"].get(USER) == bill.user_id[:LONGEST_METADATA]
        and each["status"] != "void"
        and each["id"] != bill.stripe_invoice_id
    ]
    if others:
        raise LedgerError(
            f"Other invoices of user {bill.user_id} for {session.month} stand at Stripe: "
            f"{', '.join(others)}. Billing again would leave two.",
            remedy="Void the wrong one at Stripe, then bill the month again with --verify.",
        )
    if invoice is None or invoice["status"] == "void":
        return None
    # Written down first: a crash after Stripe's answer must not look as if somebody else had voided it.
    await asyncio.to_thread(session.apply, [Change(bill, bill, "void_requested", why)])
    try:
        # Without a key: an invoice is voided once only, and a key could replay a stored failure for a day.
        answer = await gateway.send(VOID, "post", f"/v1/invoices/{invoice_id}/void")
    except StripeProblem:
        invoice = await retrieve(gateway, invoice_id)
        if invoice is not None and invoice["status"] != "void":
            raise
        return None
    return answer.request_id
