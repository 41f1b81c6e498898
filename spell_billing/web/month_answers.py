"""What the admin endpoints answer about a month: its state and totals, its review, decisions and runs."""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.month_state import MonthState
from spell_billing.ledger.reviews import DecisionKind, read_decisions, read_review
from spell_billing.web.api import Moment, MonthText
from spell_billing.web.launching import Run

DECISIONS_SHOWN = 50


class _FromLedger(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class DecisionAnswer(_FromLedger):
    """What a person decided."""

    kind: DecisionKind
    user_id: str | None
    reason: str
    actor: str
    at: Moment


class Finding(_FromLedger):
    """What a review found."""

    code: str
    text: str
    data: dict[str, Any]


class ReviewAnswer(_FromLedger):
    """A month's review."""

    drafts_hash: str = Field(description="Names the drafts that an approval holds for.")
    reviewed_at: Moment
    needs_approval: bool
    findings: list[Finding]
    approval: DecisionAnswer | None


class Reviewed(_FromLedger):
    """What a month's review found, and what was decided since."""

    review: ReviewAnswer | None
    decisions: list[DecisionAnswer] = Field(description="The newest first.")


class ReasonAnswer(_FromLedger):
    """Users of a month who share state and reason."""

    state: str
    reason: str
    users: int
    total_cents: int
    currency: str
    remedy: str
    first_users: list[str]


class CurrencyAmounts(BaseModel):
    """A month's amounts in one currency, in its minor units."""

    total_cents: int
    invoiced_cents: int
    uninvoiced_cents: int


class MonthAnswer(Reviewed):
    """Where a month stands."""

    model_config = ConfigDict(extra="forbid")

    month: MonthText
    state: MonthState
    users: int
    calls: int
    usage_cents: Annotated[
        int | Decimal,
        WithJsonSchema({"type": "number", "description": "The exact cost of the frozen usage."}),
    ]
    total_cents: int
    invoiced: int
    failed: int
    held: int
    skipped: int
    parked: int
    pending: int
    void: int
    settled: int
    invoiced_cents: int
    uninvoiced_cents: int
    covered_cents: int
    late_cents: int
    credit_applied_cents: int
    carried_cents: int
    tax_cents: int = Field(description="Tax that Stripe put on top.")
    discount_cents: int = Field(description="What coupons took off.")
    without_tax: int = Field(description="Invoices without the tax that was asked for.")
    paid: int
    paid_cents: int = Field(description="What was received for the invoices.")
    refunded_cents: int
    disputed_cents: int = Field(description="Taken back by banks in disputes that are open or lost.")
    kept_cents: int = Field(description="Paid less refunded less disputed.")
    moved_cents: int = Field(description="Too little to be charged: moved to the next invoices.")
    from_balance_cents: int = Field(description="Paid from customers' balances at Stripe.")
    payment_failed: int
    payment_failed_cents: int
    uncollectible: int
    uncollectible_cents: int
    currencies: list[str]
    by_currency: dict[str, CurrencyAmounts] = Field(
        description="Where there are several currencies: the other amounts add up minor units of all of them."
    )
    reasons: list[ReasonAnswer]
    usage_version: str | None
    runs: list[Run] = Field(description="The newest first.")


class Months(BaseModel):
    """The latest months, the newest first."""

    months: list[MonthAnswer]


def read_reviewed(ledger: Ledger, month: Month) -> Reviewed:
    """Read what the month's review found, and what was decided since, the newest first."""
    with ledger.reading() as connection:
        review, decided = read_review(connection, month), read_decisions(connection, month)
    shown = [DecisionAnswer.model_validate(each) for each in reversed(decided[-DECISIONS_SHOWN:])]
    return Reviewed(review=None if review is None else ReviewAnswer.model_validate(review), decisions=shown)
