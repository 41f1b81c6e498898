"""What a person decides about a month, over HTTP: approve, hold, release, settle."""

import asyncio
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from spell_billing.core.errors import LedgerError, LedgerLostError, MonthLockedError, StripeAccountError
from spell_billing.core.month import Month
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.review import approve, hold, release
from spell_billing.invoicing.settle import SettledAs, settle_bill
from spell_billing.ledger.history import settle_credit
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.web import api
from spell_billing.web.context import WebContext
from spell_billing.web.errors import ApiError
from spell_billing.web.facts import Facts

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


class Decided(BaseModel):
    """What came of a decision, which may have been carried out before."""

    month: api.MonthText
    decision: str
    drafts_hash: str = Field(default="", description="Of the drafts that were approved.")
    bills: int = Field(default=0, description="How many were held or released.")
    credit_cents: api.Cents = 0
    state: str = Field(default="", description="Of the bill that was settled.")
    total_cents: api.Cents = 0
    currency: str = ""


class NoSuchBillError(LedgerError):
    """The month has no bill of the user."""


def decide(context: WebContext, facts: Facts, month: Month, body: _Body, name: str) -> Decided:
    """Do what was decided, and return what came of it. It blocks: call it in a thread.

    Args:
        context: Of the server.
        facts: Of the request: who decides, and where it is noted what was done.
        month: The month.
        body: One of `BODIES`.
        name: Its name there.

    Raises:
        NoSuchBillError: when the user has no bill in the month.
        LedgerError: when the month or the bill is not in a state for it.
        MonthLockedError: when a run is at the month.
        StripeAccountError: when Stripe does not say what stands of a bill to settle.
    """
    facts.action = f"asked to {name} {month}"
    done = _carry_out(context, month, body, name, Actor(facts.actor))
    facts.action = f"{name} {month}"
    return done


def _carry_out(context: WebContext, month: Month, body: _Body, name: str, actor: Actor) -> Decided:
    ledger = context.ledger
    user_id = getattr(body, "user_id", None)
    if user_id is not None and not ledger.bills_of_user(month, user_id):
        raise NoSuchBillError(
            f"User {user_id} has no bill for {month}.", remedy="Check the user id and the month."
        )
    done = partial(Decided, month=str(month), decision=name)
    if isinstance(body, Approval):
        review = approve(ledger, month, actor, body.reason, body.drafts_hash)
        return done(drafts_hash=review.drafts_hash)
    if isinstance(body, Hold):
        act = hold if name == "hold" else release
        return done(bills=act(ledger, month, actor, body.reason, user_id))
    assert isinstance(body, Settlement)  # noqa: S101 - there is no other
    if body.credit is not None:
        cents = _settle_credit(context.ledger, month, body, body.credit.lower(), actor)
        return done(credit_cents=cents, currency=body.credit.lower())
    settled_as = SettledAs(str(body.settled_as))

    def connect() -> AbstractAsyncContextManager[Gateway]:
        account = context.stripe(timeout_seconds=_STRIPE_SECONDS, down_seconds=_STRIPE_SECONDS, tries=2)
        return account.connect(ledger)

    with ledger.session(month, actor, wait_seconds=_WAIT_SECONDS) as session:
        bill = asyncio.run(settle_bill(session, connect, body.user_id, settled_as, body.reason))
    return done(state=bill.state.value, total_cents=bill.total_cents, currency=bill.currency)


def _settle_credit(ledger: Ledger, month: Month, body: Settlement, currency: str, actor: Actor) -> int:
    with ledger.exclusive(wait_seconds=_WAIT_SECONDS), ledger.writing() as connection:
        credit = settle_credit(connection, month, body.user_id, currency, reason=body.reason, actor=actor)
    return credit.amount_cents


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


def _decide(context: WebContext, facts: Facts, month: Month, body: _Body, name: str) -> Decided:
    try:
        return decide(context, facts, month, body, name)
    except (LedgerError, StripeAccountError) as error:
        status, code = refusal_of(error)
        raise ApiError(status, code, error.message, error.remedy) from error


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
