"""What is answered of a month: where it stands, what its review found, and what was decided since."""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from spell_billing.core.review import Code
from spell_billing.ledger.month_state import MonthState
from spell_billing.ledger.reviews import DecisionKind
from spell_billing.web import api
from spell_billing.web.launching import Run


class DecisionAnswer(BaseModel):
    """What a person decided."""

    kind: DecisionKind
    user_id: str | None = Field(description="The platform's user; null for what is about the month.")
    reason: str = Field(description="Why, in the person's words.")
    actor: str = Field(description="Who decided it.")
    at: api.Moment = Field(description="When.")


class Finding(BaseModel):
    """What a review found."""

    code: str = Field(description=f"For programs: {', '.join(Code)}.")
    text: str = Field(description="In words.")
    data: dict[str, Any] = Field(description="The numbers behind it, by name.")


class ReviewAnswer(BaseModel):
    """A month's review."""

    drafts_hash: str = Field(description="Names the drafts that an approval holds for.")
    reviewed_at: api.Moment = Field(description="When these drafts were reviewed.")
    needs_approval: bool = Field(description="Whether nothing is sent until the month is approved.")
    approvals_needed: int = Field(description="By how many people.")
    approvals_missing: int = Field(description="How many more people must approve.")
    findings: list[Finding] = Field(description="Empty where nothing is to be approved.")
    approval: DecisionAnswer | None = Field(description="The one that was the last needed.")


class Reviewed(BaseModel):
    """What a month's review found, and what was decided since."""

    review: ReviewAnswer | None = Field(description="Null until the month is drafted.")
    decisions: list[DecisionAnswer] = Field(description="The newest first.")


class ReasonAnswer(BaseModel):
    """Users of a month who share state, reason and currency."""

    state: str = Field(description="Of their bills.")
    reason: str = Field(description="Why they have no invoice, as a code.")
    users: api.Users
    total_cents: int = Field(description="What their bills charge.")
    currency: api.Currency
    remedy: str = Field(description="What to do about it.")
    first_users: list[str] = Field(description="Some of those who wait for an invoice.")


class CurrencyAmounts(BaseModel):
    """A month's amounts in one currency."""

    total_cents: int = Field(description="What all bills charge.")
    invoiced_cents: int = Field(description="Of it, on finalized invoices.")
    uninvoiced_cents: int = Field(description="Of it, still to be invoiced.")


class MonthAnswer(Reviewed):
    """Where a month stands."""

    model_config = ConfigDict(extra="forbid")

    month: api.MonthText
    state: MonthState = Field(
        description="`open`: not over yet. `unbilled`: closed, nothing is sent. `in_review`: drafted, to be "
        "approved. `partial`: some users are left. `billed`: nobody is."
    )
    users: int = Field(description="Users with a bill, or a reason for none.")
    calls: int = Field(description="Calls in the frozen usage.")
    usage_cents: Annotated[
        int | Decimal,
        WithJsonSchema({"type": "number", "description": "The exact cost of the frozen usage."}),
    ]
    total_cents: int = Field(description="What the bills charge; credits count as nothing.")
    invoiced: int = Field(description="Users with a finalized invoice.")
    failed: int = Field(description="Users for whom a person must correct something.")
    held: int = Field(description="Users whose bill is held.")
    skipped: int = Field(description="Users of whom nothing is due.")
    parked: int = Field(description="Users whose invoice somebody changed at Stripe.")
    pending: int = Field(description="Users whom the next run sends on.")
    void: int = Field(description="Users whose invoice was voided.")
    settled: int = Field(description="Users whose bill a person closed.")
    invoiced_cents: int = Field(description="Of the total, on finalized invoices.")
    uninvoiced_cents: int = Field(description="Of the total, still to be invoiced.")
    covered_cents: int = Field(description="Usage that plans' allowances covered.")
    plan_cents: int = Field(description="What plans and discounts add and take off beside the allowance.")
    late_cents: int = Field(description="Charged for usage of earlier months that came late or changed.")
    credit_applied_cents: int = Field(description="Credit of earlier months that was used up.")
    carried_cents: int = Field(description="Credit that is left for later bills; below zero, charges.")
    grants_applied_cents: int = Field(description="What grants paid of the totals.")
    forgiven_cents: int = Field(description="Totals that were too small to be charged.")
    tax_cents: int = Field(description="Tax that Stripe put on top.")
    discount_cents: int = Field(description="What coupons took off.")
    without_tax: int = Field(description="Invoices without the tax that was asked for.")
    paid: int = Field(description="Users whose invoice is paid.")
    paid_cents: int = Field(description="What was received for the invoices.")
    refunded_cents: int = Field(description="Given back of it.")
    disputed_cents: int = Field(description="Taken back by banks in disputes that are open or lost.")
    kept_cents: int = Field(description="Paid less refunded less disputed.")
    moved_cents: int = Field(description="Too little to be charged: moved to the next invoices.")
    from_balance_cents: int = Field(description="Paid from customers' balances at Stripe.")
    payment_failed: int = Field(description="Users whose payment failed and is still due.")
    payment_failed_cents: int = Field(description="What their bills charge.")
    uncollectible: int = Field(description="Users whose invoice Stripe gave up on.")
    uncollectible_cents: int = Field(description="What these bills charge.")
    currencies: list[str] = Field(description="Of the month's bills.")
    by_currency: dict[str, CurrencyAmounts] = Field(
        description="Where there are several currencies: the other amounts add up minor units of all of them."
    )
    reasons: list[ReasonAnswer] = Field(description="Why users have no invoice.")
    usage_version: str | None = Field(description="Of the frozen usage; null until the month is drafted.")
    runs: list[Run] = Field(description="The newest first.")


class Months(BaseModel):
    """The latest months."""

    months: list[MonthAnswer] = Field(description="The newest first.")
