"""What a person decides about a month, as JSON or by the overview's forms: approve, hold, release, settle."""

import asyncio
from functools import partial
from http import HTTPStatus
from urllib.parse import quote

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from spell_billing.core.errors import (
    LedgerError,
    LedgerLostError,
    MonthError,
    MonthLockedError,
    StripeAccountError,
)
from spell_billing.core.money import cents_of
from spell_billing.core.month import Month
from spell_billing.invoicing.credit import credit_bill
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.review import approve, hold, release
from spell_billing.invoicing.settle import SettledAs, settle_bill
from spell_billing.ledger.credits import settle_credit
from spell_billing.ledger.rows import Actor
from spell_billing.payments.money_back import read_again
from spell_billing.web import api
from spell_billing.web.admin import BillingRequest, process
from spell_billing.web.context import WebContext
from spell_billing.web.decision_bodies import BODIES, Approval, Body, Credit, Decided, Hold, Settlement
from spell_billing.web.errors import ApiError, error_page, in_a_sentence
from spell_billing.web.facts import Facts, facts_of
from spell_billing.web.gate import require_role
from spell_billing.web.pages import read_fields
from spell_billing.web.people import Role

_WAIT_SECONDS = 10.0
_STRIPE_SECONDS = 8.0
"""A decision takes less than the 30 seconds that the proxy waits, whatever Stripe does."""

DONE = {
    "approve": "Approved. The next billing run sends the month.",
    "agree": "Your approval is noted. Nothing is sent until another person approves as well.",
    "hold": "Held. Nothing of it is sent until it is released.",
    "release": "Released. The next billing run sends it.",
    "settle": "Settled. Nobody waits for an invoice of it.",
    "bill": "A billing run is started. Look again in a minute: Runs has its result.",
    "credit": "Given back, by a credit note. The history below has it.",
}
"""What the page says after each decision."""

ROLES = {
    **dict.fromkeys(("approve", "release"), Role.APPROVE),
    **dict.fromkeys(("hold", "settle", "bill", "credit"), Role.OPERATE),
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
    return _decide(context, facts, month, body, "approve")


@router.post("/hold", operation_id="holdMonth", response_model_exclude_unset=True)
def hold_month(context: api.Context, facts: api.Asker, month: api.MonthInPath, body: Hold) -> Decided:
    """Hold one user's bill, or everybody's."""
    return _decide(context, facts, month, body, "hold")


@router.post("/release", operation_id="releaseMonth", response_model_exclude_unset=True)
def release_month(context: api.Context, facts: api.Asker, month: api.MonthInPath, body: Hold) -> Decided:
    """Release one user's bill that was held, or everybody's."""
    return _decide(context, facts, month, body, "release")


@router.post("/settle", operation_id="settleMonth", response_model_exclude_unset=True)
def settle_month(context: api.Context, facts: api.Asker, month: api.MonthInPath, body: Settlement) -> Decided:
    """Close a bill that a person dealt with, or a credit that a person gave back."""
    return _decide(context, facts, month, body, "settle")


def form_routes(context: WebContext) -> list[Route]:
    """Return the route that the overview's forms are sent to; the gate stands before it."""

    async def take(request: Request) -> Response:
        month = Month.parse(request.path_params["month"])
        fields = await read_fields(request)
        name = fields.pop("decision", "")
        if name == "bill":
            return await _bill(context, request, month)
        if name not in BODIES:
            return error_page(422, "The form is not one of this server's pages", "Open the page again.")
        try:
            body = BODIES[name].model_validate(fields)
        except ValidationError as error:
            wrong = in_a_sentence(error.errors()[0], "The form")
            return error_page(422, wrong.rstrip("."), "Go back, and give a reason in words.")
        try:
            done = await run_in_threadpool(_decide, context, facts_of(request.scope), month, body, name)
        except ApiError as error:
            return error_page(
                error.status_code, error.message.rstrip("."), f"{error.remedy} Nothing was changed."
            )
        user_id = fields.get("user_id")
        page = f"/billing/{month}" + (f"/users/{quote(user_id, safe='')}" if user_id else "")
        # A page that is loaded again must not send the form again.
        said = "agree" if done.approvals_missing else name
        return RedirectResponse(f"{page}?done={said}", HTTPStatus.SEE_OTHER)

    return [Route("/billing/{month}/decide", take, methods=["POST"])]


async def _bill(context: WebContext, request: Request, month: Month) -> Response:
    """Start a run of the month, as the endpoint does, and lead back to its page."""
    refused = require_role(facts_of(request.scope), ROLES["bill"])
    if refused is not None:
        return error_page(403, *refused)
    start = partial(
        process,
        context=context,
        runs=request.app.state.runs,
        facts=facts_of(request.scope),
        base_url=context.base_url(request),
        response=Response(),
        wanted=BillingRequest(month=str(month)),
    )
    try:
        await run_in_threadpool(start)
    except ApiError as error:
        return error_page(error.status_code, error.message.rstrip("."), error.remedy)
    except MonthError as error:
        return error_page(422, error.message.rstrip("."), error.remedy)
    return RedirectResponse(f"/billing/{month}?done=bill", HTTPStatus.SEE_OTHER)


def _decide(context: WebContext, facts: Facts, month: Month, body: Body, name: str) -> Decided:
    """Do what was decided, and return what came of it. It blocks: call it in a thread.

    Raises:
        ApiError: when it is refused.
    """
    refused = require_role(facts, ROLES[name])
    if refused is not None:
        raise ApiError(403, "role_not_enough", f"{refused[0]}.", refused[1])
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
        if review.approvals_missing:
            return done(drafts_hash=review.drafts_hash, approvals_missing=review.approvals_missing)
        return done(drafts_hash=review.drafts_hash)
    if isinstance(body, Hold):
        act = hold if name == "hold" else release
        return done(bills=act(ledger, month, actor, body.reason, body.user_id).bills)
    if isinstance(body, Credit):
        return _credit(context, month, body, actor)
    assert isinstance(body, Settlement)  # noqa: S101 - there is no other
    if body.credit is not None:
        currency = body.credit.lower()
        with ledger.exclusive(wait_seconds=_WAIT_SECONDS), ledger.writing() as connection:
            credit = settle_credit(connection, month, body.user_id, currency, reason=body.reason, actor=actor)
        return done(credit_cents=credit.amount_cents, currency=currency)
    settled_as = SettledAs(str(body.settled_as))
    patience = {"timeout_seconds": _STRIPE_SECONDS, "down_seconds": _STRIPE_SECONDS, "tries": 2}
    with ledger.session(month, actor, wait_seconds=_WAIT_SECONDS) as session:
        settling = settle_bill(
            session, lambda: context.stripe(**patience).connect(ledger), body.user_id, settled_as, body.reason
        )
        bill = asyncio.run(settling)
    return done(state=bill.state.value, total_cents=bill.total_cents, currency=bill.currency)


def _credit(context: WebContext, month: Month, body: Credit, actor: Actor) -> Decided:
    ledger = context.ledger
    currency = ledger.bills_of_user(month, body.user_id)[-1].currency
    try:
        cents = cents_of(body.amount, currency)
    except ValueError as error:
        raise ApiError(422, "amount_not_whole", f"{error}.".capitalize(), "Write it as 2.50.") from error
    if not cents:
        raise ApiError(422, "nothing_to_give_back", "The amount is zero.", "Write it as 2.50.")

    async def work(gateway: Gateway) -> None:
        with ledger.session(month, actor, wait_seconds=_WAIT_SECONDS) as session:
            to_balance = body.to == "balance"
            note = await credit_bill(
                session, gateway, body.user_id, cents, body.reason, to_balance=to_balance
            )
        await read_again(ledger, gateway, note.stripe_invoice_id)

    patience = {"timeout_seconds": _STRIPE_SECONDS, "down_seconds": _STRIPE_SECONDS, "tries": 2}
    context.stripe(**patience).work(ledger, work)
    return Decided(month=str(month), decision="credit", credit_cents=cents, currency=currency)
