"""What people decide before a month is sent: approve what its review found, hold and release bills."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, REMEDIES, Reason, State
from spell_billing.invoicing.given_back import release_both
from spell_billing.ledger import reviews
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.queries import drafts_hash, read_month
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import invoices

_NAMED = 20
_WAIT_SECONDS = 10.0
"""A person waits no longer for a run that is at the month."""


def approve(
    ledger: Ledger, month: Month, actor: Actor, reason: str, expected_hash: str | None = None
) -> reviews.Review:
    """Approve what the review of a month's drafts found: these drafts are sent, no others.

    `expected_hash` is the `drafts_hash` of the review that the person looked at; by default the newest. To
    approve the same drafts again changes nothing. Where several people must approve, the review that is
    returned says how many are missing; each of them counts once.

    Raises:
        LedgerError: when the month is not in review, or its drafts are others than the person saw.
    """
    with _writing(ledger, month, actor) as connection:
        record, review = read_month(connection, month), reviews.read_review(connection, month)
        if record is None or review is None:
            raise LedgerError(
                f"{month} has no drafts that were reviewed.",
                remedy=f"Draft and review it with `spell-billing bill --month {month}`.",
            )
        if record.billing_started_at is not None or not review.findings:
            raise LedgerError(
                f"{month} is not in review: there is nothing to approve.",
                remedy=f"See where it stands with `spell-billing status --month {month}`.",
            )
        if expected_hash not in {None, review.drafts_hash}:
            raise LedgerError(
                f"The drafts of {month} are not those that you looked at: they were reviewed again since.",
                remedy="Look at the month again, then approve it as it is now.",
            )
        if review.drafts_hash != drafts_hash(connection, month):
            raise LedgerError(
                f"The drafts of {month} are no longer those that were reviewed.",
                remedy=f"Review them with `spell-billing bill --month {month}`, then approve those.",
            )
        person = reviews.person_of(actor.name)
        if review.approval is not None or person in {
            reviews.person_of(each.actor) for each in review.approvals
        }:
            return review
        if review.approvals_needed > 1 and not person:
            raise LedgerError(
                f"{month} needs the approval of {review.approvals_needed} people, each by name.",
                remedy="Sign in with a name and secret of ADMIN_SECRETS, or use the command line.",
            )
        kind = reviews.DecisionKind.AGREED if review.approvals_missing > 1 else reviews.DecisionKind.APPROVED
        approval = _decision(month, kind, actor, reason, content_hash=review.drafts_hash)
        reviews.write_decision(connection, approval, actor)
        return replace(review, approvals=[*review.approvals, approval])


@dataclass(frozen=True, slots=True)
class Decided:
    """On how many bills a person decided, and which stay held for a reason of their own, in their order."""

    bills: int
    others: Sequence[reviews.WaitingBill] = ()


def named(bills: Sequence[reviews.WaitingBill]) -> str:
    """Return whose bills are held and why, as far as a person reads it."""
    users = ", ".join(f"{bill.user_id} ({bill.reason})" for bill in bills[:_NAMED])
    return users + (f" and {len(bills) - _NAMED:,} more" if len(bills) > _NAMED else "")


def hold(ledger: Ledger, month: Month, actor: Actor, reason: str, user_id: str | None = None) -> Decided:
    """Hold one user's bill, or everybody's (None), until it is released.

    What was sent stays sent. Of everybody's, a bill that is held already keeps its own reason.

    Raises:
        LedgerError: when there is no such bill, or it was sent.
    """
    with _writing(ledger, month, actor) as connection:
        _require_drafted(connection, month)
        if user_id is None:
            return hold_everybody(connection, month, actor, reason)
        bill = _bill_of(connection, month, user_id)
        _require_unsent(month, bill)
        decision = _decision(month, reviews.DecisionKind.HELD, actor, reason, user_id)
        if not _is_holdable(bill):
            reviews.write_decision(connection, decision, actor)
            return Decided(0)
        # The change of the bill has an audit entry of its own.
        reviews.write_decisions(connection, [decision])
        held = reviews.Hold(bill, Reason.HELD_BY_PERSON, reason)
        reviews.write_holds(connection, month, [held], actor, decision.at)
        return Decided(1)


def hold_everybody(connection: Connection, month: Month, actor: Actor, reason: str) -> Decided:
    """Hold every bill of a month that would be sent; a bill that is held already keeps its own reason."""
    found = reviews.read_waiting(connection, month)
    holds = [
        reviews.Hold(bill, Reason.HELD_BY_PERSON, reason) for bill in found if bill.state is State.PLANNED
    ]
    decision = _decision(month, reviews.DecisionKind.HELD, actor, reason)
    reviews.write_decision(connection, decision, actor)
    reviews.write_holds(connection, month, holds, actor, decision.at)
    return Decided(len(holds), [bill for bill in found if bill.state is State.HELD])


def release(ledger: Ledger, month: Month, actor: Actor, reason: str, user_id: str | None = None) -> Decided:
    """Release one user's bill, whatever it is held for, or many (None); the next `bill` sends them.

    Of many, that is what the hold of all bills holds, which it ends. Where none is in force, it is what the
    rules hold as not plausible. A bill that is held for a reason of its own stays held.

    A release is bound to what the bill says: drafted again with other content, it is held again.

    Raises:
        LedgerError: when nothing is held, or not by a hold that a person can release.
    """
    with _writing(ledger, month, actor) as connection:
        _require_drafted(connection, month)
        holds = reviews.PeoplesHolds(reviews.read_decisions(connection, month))
        if user_id is None:
            return _release_many(connection, month, actor, reason, holds)
        bill = _bill_of(connection, month, user_id)
        if not _is_releasable(bill, holds):
            why = f"not held: it is {bill.state}"
            remedy = f"See what waits with `spell-billing status --month {month}`."
            if bill.state is State.HELD and bill.reason is not None:
                why, remedy = f"held for {bill.reason}", REMEDIES[bill.reason]
            raise LedgerError(f"The bill of user {user_id} for {month} is {why}.", remedy=remedy)
        if bill.reason is Reason.ALREADY_GIVEN_BACK:
            release_both(connection, month, user_id, reason, actor)
        _release(connection, month, actor, reason, [bill])
        return Decided(1)


def _release_many(
    connection: Connection, month: Month, actor: Actor, reason: str, holds: reviews.PeoplesHolds
) -> Decided:
    held = [bill for bill in reviews.read_waiting(connection, month) if bill.state is State.HELD]
    if holds.everybody:
        reviews.write_decision(
            connection, _decision(month, reviews.DecisionKind.RELEASED, actor, reason), actor
        )

    def is_meant(bill: reviews.WaitingBill) -> bool:
        if not holds.everybody:
            return bill.reason is Reason.NOT_PLAUSIBLE
        by_name = holds.held_by_name(bill.user_id, bill.lines_hash) is not None
        return bill.reason is Reason.HELD_BY_PERSON and not by_name

    bills = [bill for bill in held if is_meant(bill)]
    others = [bill for bill in held if not is_meant(bill)]
    if not bills and not holds.everybody:
        only = f" Held for a reason of their own: {named(others)}." if others else ""
        raise LedgerError(
            f"No bill of {month} is held that `release --all` releases.{only}",
            remedy=f"See what waits with `spell-billing status --month {month}`, and release it with --user.",
        )
    if holds.everybody:
        # They are plausible, and nobody holds them by name: nothing else is to be remembered of them.
        reviews.write_holds(
            connection, month, [reviews.Hold(bill, None, reason) for bill in bills], actor, datetime.now(UTC)
        )
    else:
        _release(connection, month, actor, reason, bills)
    return Decided(len(bills), others)


def _release(
    connection: Connection, month: Month, actor: Actor, reason: str, bills: Sequence[reviews.WaitingBill]
) -> None:
    released = {
        bill.id: _decision(
            month, reviews.DecisionKind.RELEASED, actor, reason, bill.user_id, content_hash=bill.lines_hash
        )
        for bill in bills
    }
    # A bill that is sent on has an audit entry of its own.
    sent_on = [bill for bill in bills if _is_held(bill) and bill.reason is not Reason.ALREADY_GIVEN_BACK]
    reviews.write_decisions(connection, [released.pop(bill.id) for bill in sent_on])
    released_bills = [reviews.Hold(bill, None, reason) for bill in sent_on]
    reviews.write_holds(connection, month, released_bills, actor, datetime.now(UTC))
    for decision in released.values():
        reviews.write_decision(connection, decision, actor)


@contextmanager
def _writing(ledger: Ledger, month: Month, actor: Actor) -> Iterator[Connection]:
    with (
        ledger.session(month, actor, wait_seconds=_WAIT_SECONDS) as session,
        session.writing() as connection,
    ):
        yield connection


def _decision(
    month: Month,
    kind: reviews.DecisionKind,
    actor: Actor,
    reason: str,
    user_id: str | None = None,
    *,
    content_hash: str | None = None,
) -> reviews.Decision:
    return reviews.Decision(str(month), user_id, kind, content_hash, reason, actor.name, datetime.now(UTC))


def _is_holdable(bill: reviews.WaitingBill) -> bool:
    """Return whether the bill would be sent now, or when released; a failed one is held once it could."""
    not_plausible = bill.state is State.HELD and bill.reason is Reason.NOT_PLAUSIBLE
    return bill.state is State.PLANNED or not_plausible


def _is_releasable(bill: reviews.WaitingBill, holds: reviews.PeoplesHolds) -> bool:
    # A bill that could not be sent yet is released as well: when it can, the hold is off.
    held_by_name = holds.held_because(bill.user_id, bill.lines_hash) is not None
    return _is_held(bill) or (bill.state in {State.FAILED, State.HELD} and held_by_name)


def _is_held(bill: reviews.WaitingBill) -> bool:
    return bill.state is State.HELD and bill.reason in reviews.RELEASABLE


def _bill_of(connection: Connection, month: Month, user_id: str) -> reviews.WaitingBill:
    bills = reviews.read_waiting(connection, month, invoices.c.user_id == user_id)
    if not bills:
        raise no_bill(month, user_id)
    return bills[-1]


def no_bill(month: Month, user_id: str) -> LedgerError:
    """Return the error that a user has no bill for a month."""
    return LedgerError(
        f"User {user_id} has no bill for {month}.",
        remedy="Check the user id and the month; `spell-billing invoices` lists all bills.",
    )


def _require_drafted(connection: Connection, month: Month) -> None:
    if read_month(connection, month) is None:
        raise LedgerError(
            f"{month} has no drafts.",
            remedy="Hold and release bills once they are drafted: materialize invoice_drafts of the month.",
        )


def _require_unsent(month: Month, bill: reviews.WaitingBill) -> None:
    if bill.state in {State.PLANNED, State.FAILED, State.HELD}:
        return
    if bill.state in INVOICED or bill.state is State.PARKED:
        remedy = f"Take it back with `spell-billing void --month {month} --user {bill.user_id}`."
    elif bill.state is State.DRAFTED:
        remedy = f"A run began to send it: finish with `spell-billing bill --month {month}`, then void it."
    else:
        remedy = "It will not be sent; there is nothing to hold."
    raise LedgerError(f"The bill of user {bill.user_id} for {month} is {bill.state}.", remedy=remedy)
