"""What a person decides about a month and its bills: the endpoints for programs, and doing it."""

import asyncio
from functools import partial

from spell_billing.core.errors import (
    LedgerError,
    LedgerLostError,
    MonthLockedError,
    StripeAccountError,
)
from spell_billing.core.money import cents_of
from spell_billing.core.month import Month
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.given_back import charged_again
from spell_billing.invoicing.review import approve, hold, release
from spell_billing.invoicing.settle import SettledAs, settle_bill, void_bill
from spell_billing.ledger.credits import settle_credit
from spell_billing.ledger.rows import Actor
from spell_billing.orchestration.resources import StripeResource
from spell_billing.payments.credit import Credited, credit_bill, nothing_done
from spell_billing.payments.money_back import read_again
from spell_billing.web import api
from spell_billing.web.context import WebContext
from spell_billing.web.decision_bodies import (
    Approval,
    Body,
    Credit,
    Decided,
    Hold,
    Settlement,
    Told,
    Void,
)
from spell_billing.web.errors import ApiError
from spell_billing.web.facts import Facts
from spell_billing.web.gate import require_role
from spell_billing.web.people import Role

_WAIT_SECONDS = 10.0
_STRIPE_SECONDS = 8.0
"""A decision takes less than the 30 seconds that the proxy waits, whatever Stripe does."""

ROLES = {
    **dict.fromkeys(("approve", "release"), Role.APPROVE),
    **dict.fromkeys(("hold", "settle", "bill", "credit", "void"), Role.OPERATE),
}
"""The role that each decision needs."""

router = api.guarded_router(
    "/admin/billing/months/{month}",
    {
        404: "The month has no bill of the user.",
        409: "Not possible now: the drafts have changed, nothing is to decide, or a run is at the month.",
    },
)
"""The endpoints of the decisions for programs; the gate stands before them."""


@router.post("/approve", operation_id="approveMonth", response_model_exclude_unset=True)
def approve_month(context: api.Context, facts: api.Asker, month: api.MonthInPath, body: Approval) -> Decided:
    """Approve a month in review, exactly as it was reviewed."""
    return decide(context, facts, month, body, "approve")


@router.post("/hold", operation_id="holdMonth", response_model_exclude_unset=True)
def hold_month(context: api.Context, facts: api.Asker, month: api.MonthInPath, body: Hold) -> Decided:
    """Hold one user's bill, or everybody's."""
    return decide(context, facts, month, body, "hold")


@router.post("/release", operation_id="releaseMonth", response_model_exclude_unset=True)
def release_month(context: api.Context, facts: api.Asker, month: api.MonthInPath, body: Hold) -> Decided:
    """Release one user's bill that was held, or everybody's."""
    return decide(context, facts, month, body, "release")


@router.post("/settle", operation_id="settleMonth", response_model_exclude_unset=True)
def settle_month(context: api.Context, facts: api.Asker, month: api.MonthInPath, body: Settlement) -> Decided:
    """Close a bill that a person dealt with, or a credit that a person gave back."""
    return decide(context, facts, month, body, "settle")


def require_role_for(name: str, facts: Facts) -> None:
    """Raise ApiError for who may not make a decision, as `approve`, or `bill` a month."""
    refused = require_role(facts, ROLES[name])
    if refused is not None:
        raise ApiError(403, "role_not_enough", f"{refused[0]}.", refused[1])


def decide(context: WebContext, facts: Facts, month: Month, body: Body, name: str) -> Decided:
    """Do what was decided, and return what came of it. It blocks: call it in a thread.

    Raises:
        ApiError: when it is refused.
    """
    require_role_for(name, facts)
    user_id = getattr(body, "user_id", None)
    facts.action = f"asked to {name} {month}"
    try:
        if user_id is not None and not context.ledger.bills_of_user(month, user_id):
            message = f"User {user_id} has no bill for {month}."
            raise ApiError(404, "no_such_bill", message, "Check the user id and the month.")
        done = _carry_out(context, month, body, name, Actor(facts.actor))
    except LedgerLostError:
        # The server tells of a ledger that does not answer in its own words.
        raise
    except StripeAccountError as error:
        raise ApiError(503, "stripe_does_not_answer", error.message, error.remedy) from error
    except LedgerError as error:
        code = "month_is_locked" if isinstance(error, MonthLockedError) else "not_possible_now"
        raise ApiError(409, code, error.message, error.remedy) from error
    facts.action = f"{name} {month}"
    return done


def _carry_out(context: WebContext, month: Month, body: Body, name: str, actor: Actor) -> Decided:
    ledger = context.ledger
    done = partial(Decided, month=str(month), decision=name)
    if isinstance(body, Approval):
        review = approve(ledger, month, actor, body.reason, body.drafts_hash)
        approved = done(drafts_hash=review.drafts_hash)
        if review.approvals_missing:
            approved.approvals_missing = review.approvals_missing
        return approved
    if isinstance(body, Hold):
        act = hold if name == "hold" else release
        return done(bills=act(ledger, month, actor, body.reason, body.user_id).bills)
    if isinstance(body, Credit):
        return _credit(context, month, body, actor)
    if isinstance(body, Void):
        for_good = body.then == "for-good"
        with ledger.session(month, actor, wait_seconds=_WAIT_SECONDS) as session:
            void = partial(void_bill, session, user_id=body.user_id, why=body.reason, for_good=for_good)
            bill = _stripe(context).work(ledger, void)
        words = ledger.read(charged_again, bill)
        return Told(
            month=str(month),
            decision=name,
            state=bill.state.value,
            total_cents=bill.total_cents,
            currency=bill.currency,
            words=f"The invoice is void. {words}" if words else None,
        )
    assert isinstance(body, Settlement)  # noqa: S101 - there is no other
    if body.credit is not None:
        currency = body.credit.lower()
        with ledger.exclusive(wait_seconds=_WAIT_SECONDS), ledger.writing() as connection:
            credit = settle_credit(connection, month, body.user_id, currency, reason=body.reason, actor=actor)
        return done(credit_cents=credit.amount_cents, currency=currency)
    settled_as = SettledAs(str(body.settled_as))
    with ledger.session(month, actor, wait_seconds=_WAIT_SECONDS) as session:
        settling = settle_bill(
            session, lambda: _stripe(context).connect(ledger), body.user_id, settled_as, body.reason
        )
        bill = asyncio.run(settling)
    return done(state=bill.state.value, total_cents=bill.total_cents, currency=bill.currency)


def _credit(context: WebContext, month: Month, body: Credit, actor: Actor) -> Told:
    ledger = context.ledger
    currency = ledger.bills_of_user(month, body.user_id)[-1].currency
    cents = _cents_of(body, currency)

    async def work(gateway: Gateway) -> Credited:
        with ledger.session(month, actor, wait_seconds=_WAIT_SECONDS) as session:
            to_balance = body.to == "balance"
            credited = await credit_bill(
                session, gateway, body.user_id, cents, body.reason, ledger=ledger, to_balance=to_balance
            )
        await read_again(ledger, gateway, credited.note.stripe_invoice_id)
        return credited

    credited = _stripe(context).work(ledger, work)
    return Told(
        month=str(month),
        decision="credit",
        credit_cents=credited.note.cents,
        currency=currency,
        words=None if credited.is_new else nothing_done(credited.note, currency),
    )


def _cents_of(body: Credit, currency: str) -> int | None:
    """Return how much is to be given back, None for all of it."""
    if body.all:
        return None
    try:
        cents = cents_of(str(body.amount), currency)
    except ValueError as error:
        raise ApiError(422, "amount_not_whole", f"{error}.".capitalize(), "Write it as 2.50.") from error
    if not cents:
        raise ApiError(422, "nothing_to_give_back", "The amount is zero.", "Write it as 2.50.")
    return cents


def _stripe(context: WebContext) -> StripeResource:
    return context.stripe(timeout_seconds=_STRIPE_SECONDS, down_seconds=_STRIPE_SECONDS, tries=2)
