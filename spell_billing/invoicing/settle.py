"""Closing one user's bill, explicit and audited: void its invoice, or settle a bill that has none.

And a correction of many bills of a month: the same step for each, one after the other, and who was refused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError, LedgerLostError
from spell_billing.core.keys import LONGEST_METADATA, MONTH, USER
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, TO_DRIVE, UNDONE, Reason, State
from spell_billing.invoicing import lookups
from spell_billing.invoicing.adoption import as_it_stands
from spell_billing.invoicing.gateway import Connect, Gateway
from spell_billing.invoicing.given_back import bill_of_user
from spell_billing.invoicing.review import no_bill
from spell_billing.ledger.grants import grant_used_since
from spell_billing.ledger.moves import read_heirs
from spell_billing.ledger.queries import latest_generation, require_no_credit_under_way
from spell_billing.ledger.rows import Bill, Change
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession
from spell_billing.stripe_api.problems import StripeProblem

T = TypeVar("T")

VOID = "POST /v1/invoices/{invoice}/void"


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

    Billed by hand counts as charged for later usage; written off as neither charged nor due. An invoice that
    was changed at Stripe is accepted as billed by hand: it stands with its own total. To settle a bill again
    the same way changes nothing; another way corrects the first. `why` goes into the audit trail. The gateway
    is opened only for a bill of which something may stand at Stripe.

    Raises:
        LedgerError: when there is nothing to settle, the month is in review or not begun, or an invoice of
            the bill stands at Stripe.
        StripeAccountError: when Stripe does not say what stands; nothing is written.
    """
    bill = await latest_bill(session, user_id)
    if bill.state is State.SETTLED and bill.reason is settled_as.reason:
        return bill
    _require_open(session, bill)
    if bill.state is State.VOID:
        await asyncio.to_thread(session.write, _require_unused, bill)
    await asyncio.to_thread(_require_begun, session)
    after = None
    with lookups.asking(
        f"Stripe cannot be asked what stands of user {bill.user_id}'s bill",
        remedy="Nothing was settled. Check the network and STRIPE_API_KEY, then try again.",
    ):
        if bill.reason is Reason.CHANGED_AT_STRIPE and settled_as is SettledAs.BILLED_BY_HAND:
            after = await _accepted(connect, bill)
        if after is None and bill.stripe_customer_id and bill.state is not State.SETTLED:
            await _require_nothing_stands(session, connect, bill)
    if after is None:
        after = replace(bill, state=State.SETTLED, reason=settled_as.reason, message=why)
    return await asyncio.to_thread(_settle, session, Change(bill, after, "settled", f"{settled_as}: {why}"))


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
    raise LedgerError(f"{named}: nothing is open.", remedy="There is nothing to settle.")


def _require_unused(connection: Connection, bill: Bill) -> None:
    """Refuse a void bill whose grants other bills have used since: settled, it would use them too.

    And while one waits that may use the same credit; what is sent pays it back later.
    """
    missing = grant_used_since(connection, bill)
    if missing is not None:
        raise LedgerError(
            f"Grant {missing} paid for some of user {bill.user_id}'s void bill for {bill.month}, and other "
            "bills have used it since.",
            remedy=f"Bill the month again (spell-billing bill --month {bill.month}), or leave the bill void: "
            f"spell-billing void --month {bill.month} --user {bill.user_id} --for-good.",
        )
    if bill.credit_applied_cents:
        users = read_heirs(connection).together_with(bill.user_id)
        require_no_credit_under_way(connection, users)


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
        invoice = await lookups.retrieve(gateway, str(bill.stripe_invoice_id))
    if (
        invoice is None
        or invoice["status"] not in lookups.STATE_OF_STATUS
        or invoice["currency"] != bill.currency
    ):
        return None
    return as_it_stands(bill, invoice)


async def _require_nothing_stands(session: MonthSession, connect: Connect, bill: Bill) -> None:
    """Ask Stripe what stands of the bill: refuse an invoice, delete a draft of ours."""
    async with connect() as gateway:
        try:
            found = await lookups.invoices_of_bill(gateway, bill)
            if bill.stripe_invoice_id and all(each["id"] != bill.stripe_invoice_id for each in found):
                own = await lookups.retrieve(gateway, bill.stripe_invoice_id)
                found += [own] if own is not None and own["status"] != "void" else []
            standing = [each for each in found if each["status"] != "draft"]
            if not standing:
                standing = [draft for draft in found if not await lookups.delete_draft(gateway, draft["id"])]
        except StripeProblem as problem:
            if problem.reason is not Reason.UNKNOWN_CUSTOMER:
                raise
            return
    if standing:
        ids = ", ".join(f"{each['id']} ({each['status']})" for each in standing)
        raise LedgerError(
            f"Of user {bill.user_id}'s bill for {session.month}, this stands at Stripe: {ids}.",
            remedy=f"Void what is wrong: spell-billing void --month {session.month} --user {bill.user_id}, "
            f"or at Stripe; or take it over with `spell-billing bill --month {session.month} --verify`.",
        )


async def latest_bill(session: MonthSession, user_id: str) -> Bill:
    """Return the user's bill of the month, in its latest generation; a LedgerError where there is none."""
    bill = await asyncio.to_thread(session.write, bill_of_user, session.month, user_id)
    if bill is None:
        raise no_bill(session.month, user_id)
    return bill


async def void_bill(
    session: MonthSession, gateway: Gateway, user_id: str, why: str, *, for_good: bool
) -> Bill:
    """Void the user's invoice at Stripe and in the ledger. Repeating it completes what was interrupted.

    Unless `for_good`, the next run bills the user again as a new generation; a bill that waits for that run
    can still be voided for good. `why` goes into the audit trail.

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
        with lookups.asking(
            f"Stripe did not void {bill.stripe_invoice_id}",
            remedy="Run the command again; it finds out what became of it.",
        ):
            request_id = await _void_at_stripe(session, gateway, bill, why)
    reason, then = (Reason.WRITTEN_OFF, "for good") if for_good else (Reason.VOIDED, "to be billed again")
    after = replace(bill, state=State.VOID, reason=reason, message=why, stripe_request_id=request_id)
    (voided,) = await asyncio.to_thread(session.apply, [Change(bill, after, "voided", f"{then}: {why}")])
    return voided


async def _void_at_stripe(session: MonthSession, gateway: Gateway, bill: Bill, why: str) -> str | None:
    """Make sure that the invoice does not stand; return the id of the request that voided it, if any."""
    invoice_id = str(bill.stripe_invoice_id)
    invoice = await lookups.retrieve(gateway, invoice_id)
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
            customer=bill.stripe_customer_id, created=lookups.created_since_close(session.month)
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
        answer = await gateway.send(VOID, invoice=invoice_id)
    except StripeProblem:
        invoice = await lookups.retrieve(gateway, invoice_id)
        if invoice is not None and invoice["status"] != "void":
            raise
        return None
    return answer.request_id


def users_in(connection: Connection, month: Month, states: Collection[State]) -> list[str]:
    """Return the users whose latest bill of a month is in one of some states, in the order of their bills."""
    query = sa.select(invoices.c.user_id).where(
        latest_generation(month), invoices.c.state.in_([each.value for each in states])
    )
    return list(connection.scalars(query.order_by(invoices.c.id)))


async def for_each(users: Iterable[str], act: Callable[[str], Awaitable[T]]) -> tuple[list[T], list[str]]:
    """Do something for each user; return what came of it, and why it was refused for others.

    Raises:
        StripeAccountError: from `act`, when Stripe does not answer: what was done is done; repeat the whole.
        LedgerLostError: likewise, when the ledger is lost.
    """
    done, refused = list[T](), list[str]()
    for user_id in users:
        try:
            done.append(await act(user_id))
        except LedgerLostError:
            raise
        except LedgerError as error:
            refused.append(f"{error.message} {error.remedy}")
    return done, refused
