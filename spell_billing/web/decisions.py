"""What a person decides about a month, over HTTP: approve, hold, release, settle."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spell_billing.core.errors import (
    LedgerError,
    LedgerLostError,
    MonthError,
    MonthLockedError,
    StripeAccountError,
)
from spell_billing.core.month import Month
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.review import approve, hold, release
from spell_billing.invoicing.settle import SettledAs, settle_bill
from spell_billing.ledger.credits import settle_credit
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.reviews import Decision, read_decisions, read_review
from spell_billing.ledger.rows import Actor
from spell_billing.web.answers import json_answer, json_error
from spell_billing.web.context import WebContext
from spell_billing.web.facts import facts_of

PATH = "/admin/billing/months/{month}/"
DECISIONS_SHOWN = 50
_WAIT_SECONDS = 10.0
_STRIPE_SECONDS = 8.0
"""A request is answered within 30 seconds, whatever Stripe does."""

_Reason = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        max_length=500,
        # Something other than a space, and no control character.
        pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$",
    ),
]
_UserId = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: _Reason = Field(description="Why, in words, for the audit trail.")


def _either(one: dict[str, Any], other: dict[str, Any]) -> ConfigDict:
    """Describe a body that holds one thing or another: fields with their schema, which must be there."""
    either: list[Any] = [{"properties": each, "required": [next(iter(each))]} for each in (one, other)]
    return ConfigDict(extra="forbid", json_schema_extra={"oneOf": either})


class Approval(_Body):
    """Approve a month in review, exactly as it was reviewed."""

    drafts_hash: str = Field(
        min_length=1, max_length=100, description="Of the review that was looked at, as in `review`."
    )


class Hold(_Body):
    """Hold or release one user's bill, or everybody's."""

    model_config = _either(
        {"user_id": {"type": "string"}, "all": {"const": False}},
        {"all": {"const": True}, "user_id": {"type": "null"}},
    )
    user_id: _UserId | None = Field(default=None, description="The platform's user.")
    all: bool = Field(default=False, description="Everybody, instead of one user.")

    @model_validator(mode="after")
    def _whom(self) -> Self:
        if (self.user_id is None) is not self.all:
            raise ValueError("give either user_id, or all as true")
        return self


class Settlement(_Body):
    """Close a bill that a person dealt with, or a credit that a person gave back."""

    model_config = _either(
        {"as": {"type": "string"}, "credit": {"type": "null"}},
        {"credit": {"type": "string"}, "as": {"type": "null"}},
    )
    user_id: _UserId = Field(description="The platform's user.")
    settled_as: Literal["billed-by-hand", "written-off"] | None = Field(default=None, alias="as")
    credit: Annotated[str, StringConstraints(pattern="^[A-Za-z]{3}$")] | None = Field(
        default=None, description="The currency of the credit to settle, instead of a bill."
    )

    @model_validator(mode="after")
    def _what(self) -> Self:
        if (self.settled_as is None) is (self.credit is None):
            raise ValueError("give either as, or credit")
        return self


BODIES: dict[str, type[_Body]] = {"approve": Approval, "hold": Hold, "release": Hold, "settle": Settlement}
"""What each decision takes, by its name in the path."""


class NoSuchBillError(LedgerError):
    """The month has no bill of the user."""


class Decisions:
    """Carries decisions out. Every method blocks: call it in a thread.

    Args:
        context: Of the server.
    """

    def __init__(self, context: WebContext) -> None:
        self._context = context

    def decide(self, month: Month, body: _Body, name: str, actor: Actor) -> dict[str, Any]:
        """Do what was decided; give what came of it for programs.

        Raises:
            NoSuchBillError: when the user has no bill in the month.
            LedgerError: when the month or the bill is not in a state for it.
            MonthLockedError: when a run is at the month.
            StripeAccountError: when Stripe does not say what stands of a bill to settle.
        """
        ledger = self._context.ledger
        user_id = getattr(body, "user_id", None)
        if user_id is not None and not ledger.bills_of_user(month, user_id):
            raise NoSuchBillError(
                f"User {user_id} has no bill for {month}.", remedy="Check the user id and the month."
            )
        done: dict[str, Any] = {"month": str(month), "decision": name}
        if isinstance(body, Approval):
            review = approve(ledger, month, actor, body.reason, body.drafts_hash)
            return {**done, "drafts_hash": review.drafts_hash}
        if isinstance(body, Hold):
            act = hold if name == "hold" else release
            return {**done, "bills": act(ledger, month, actor, body.reason, user_id)}
        assert isinstance(body, Settlement)  # noqa: S101 - there is no other
        if body.credit is not None:
            cents = self._settle_credit(month, body, body.credit.lower(), actor)
            return {**done, "credit_cents": cents, "currency": body.credit.lower()}
        settled_as = SettledAs(str(body.settled_as))

        def connect() -> AbstractAsyncContextManager[Gateway]:
            account = self._context.stripe(
                timeout_seconds=_STRIPE_SECONDS, down_seconds=_STRIPE_SECONDS, tries=2
            )
            return account.connect(ledger)

        with ledger.session(month, actor, wait_seconds=_WAIT_SECONDS) as session:
            bill = asyncio.run(settle_bill(session, connect, body.user_id, settled_as, body.reason))
        return {**done, "state": bill.state.value, "total_cents": bill.total_cents, "currency": bill.currency}

    def _settle_credit(self, month: Month, body: Settlement, currency: str, actor: Actor) -> int:
        ledger = self._context.ledger
        with ledger.exclusive(wait_seconds=_WAIT_SECONDS), ledger.writing() as connection:
            credit = settle_credit(connection, month, body.user_id, currency, reason=body.reason, actor=actor)
        return credit.amount_cents


def decision_routes(context: WebContext) -> list[Route]:
    """Return the routes of the decisions for programs; the gate stands before them."""
    decisions = Decisions(context)

    def endpoint(name: str) -> Route:
        async def decide(request: Request) -> Response:
            return await _decide(decisions, name, request)

        return Route(f"{PATH}{name}", decide, methods=["POST"])

    return [endpoint(name) for name in BODIES]


async def _decide(decisions: Decisions, name: str, request: Request) -> Response:
    try:
        month = Month.parse(request.path_params["month"])
        body = BODIES[name].model_validate_json(await request.body() or b"{}")
    except MonthError as error:
        return json_error(422, "wrong_month", error.message, error.remedy)
    except ValidationError as error:
        return json_error(422, "wrong_body", in_a_sentence(error), "See /openapi.json.")
    facts = facts_of(request.scope)
    facts.action = f"asked to {name} {month}"
    try:
        done = await run_in_threadpool(decisions.decide, month, body, name, Actor(facts.actor))
    except (LedgerError, StripeAccountError) as error:
        status, code = refusal_of(error)
        return json_error(status, code, error.message, error.remedy)
    facts.action = f"{name} {month}"
    return json_answer(done)


def refusal_of(error: LedgerError | StripeAccountError) -> tuple[int, str]:
    """Return HTTP's status and the code of a decision that is refused.

    Raises:
        LedgerLostError: as it is: the server tells of a ledger that does not answer in its own words.
    """
    if isinstance(error, LedgerLostError):
        raise error
    if isinstance(error, StripeAccountError):
        return 503, "stripe_does_not_answer"
    if isinstance(error, NoSuchBillError):
        return 404, "no_such_bill"
    return 409, "month_is_locked" if isinstance(error, MonthLockedError) else "not_possible_now"


def in_a_sentence(error: ValidationError) -> str:
    """Name the first thing that is wrong with a body, without repeating what was sent."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    what = str(first["msg"]).removeprefix("Value error, ")
    return f"The body is not what is expected{f' at {place}' if place else ''}: {what}."


def review_as_json(ledger: Ledger, month: Month) -> dict[str, Any]:
    """Return what the month's review found, and what was decided since, the newest first."""
    with ledger.reading() as connection:
        review, decided = read_review(connection, month), read_decisions(connection, month)
    return {
        "review": None
        if review is None
        else {
            "drafts_hash": review.drafts_hash,
            "reviewed_at": review.reviewed_at,
            "needs_approval": review.needs_approval,
            "findings": list(review.findings),
            "approval": _decision(review.approval) if review.approval else None,
        },
        "decisions": [_decision(each) for each in reversed(decided[-DECISIONS_SHOWN:])],
    }


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "kind": decision.kind.value,
        "user_id": decision.user_id,
        "reason": decision.reason,
        "actor": decision.actor,
        "at": decision.at,
    }
