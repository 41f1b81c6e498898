"""What the history API answers about one user: invoices, as the user's page shows them too, and usage."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from spell_billing.core.drafting import USAGE, Line
from spell_billing.core.lines import shown_lines
from spell_billing.core.money import format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.browsing import UserBill
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Bill
from spell_billing.web import words
from spell_billing.web.api import Cents, Moment, MonthText
from spell_billing.web.user_usage import METHOD, Charge, UserUsage

Exact = Annotated[
    str,
    Field(
        pattern=r"^-?\d+(\.\d+)?$",
        description="Exact minor units, with decimals where a call costs a fraction of a cent.",
    ),
]
Money = Annotated[str, Field(description="The amount for people.", examples=["$12.34"])]


class InvoiceLine(BaseModel):
    """A line of an invoice."""

    kind: str
    description: str
    amount_cents: Cents
    amount: Money
    usage_month: str
    calls: int


class InvoicePayment(BaseModel):
    """How the payment of an invoice stands."""

    model_config = ConfigDict(from_attributes=True)

    status: str = Field(description="Stripe's: open, paid, uncollectible or void.")
    attempts: int
    failed_attempts: int
    next_attempt_at: Moment | None
    amount_due_cents: Cents
    amount_due: Money = ""
    amount_paid_cents: Cents
    amount_paid: Money = ""
    as_of: Moment = Field(description="When Stripe said so.")


class Breakdown(BaseModel):
    """The total taken apart: usage - covered by the plan + late usage - credit applied + other = total."""

    usage_cents: Cents
    covered_cents: Cents
    late_cents: Cents
    credit_applied_cents: Cents
    other_cents: Cents


class Invoice(BaseModel):
    """A bill of a user. `reason` and `why` are answered to the secret alone."""

    month: MonthText
    month_name: str
    generation: int = Field(description="Above 1 where an earlier invoice was voided.")
    state: State
    state_in_words: str
    currency: str
    calls: int
    total_cents: Cents
    total: Money
    breakdown: Breakdown
    exact_usage_cents: Exact
    carried_cents: int = Field(description="Credit that goes to a later invoice, in minor units.")
    lines: list[InvoiceLine]
    stripe_invoice_id: str | None
    finalized_at: Moment | None
    hosted_invoice_url: str | None = Field(
        description="Stripe's page of the invoice; null until Stripe's event about it was read."
    )
    invoice_pdf: str | None
    payment: InvoicePayment | None
    reason: str | None = Field(default=None, description="Why there is no invoice, for programs.")
    why: str | None = Field(default=None, description="The same in words, with what to do about it.")


class Invoices(BaseModel):
    """A page of a user's invoices."""

    user_id: str
    invoices: list[Invoice]
    next: str | None = Field(description="Where the next page begins: its `before`. Null on the last page.")


class _Charged(BaseModel):
    usage_cents: Cents
    covered_cents: Cents
    due_cents: Cents
    due: Money


class Day(BaseModel):
    """One day's calls."""

    day: date
    calls: int
    exact_usage_cents: Exact


class Projection(_Charged):
    """What the whole month may come to, linear by elapsed time."""

    method: str


class Usage(_Charged):
    """A user's usage of a month."""

    user_id: str
    month: MonthText
    month_name: str
    source: Literal["live", "frozen"] = Field(description="As it is now, or as it was billed.")
    as_of: Moment
    currency: str
    calls: int
    exact_usage_cents: Exact
    included_cents: int = Field(description="The plan's monthly allowance, in minor units.")
    days: list[Day] | None = Field(
        description="Days (UTC) with calls; null where the frozen rows are not at hand."
    )
    projection: Projection | None = Field(description="For the present month after its first day.")


def invoice_of(item: UserBill, *, internal: bool) -> Invoice:
    """Return what is answered of one bill.

    Args:
        item: The bill and what is known of its payment.
        internal: Whether the reader is the platform itself: then also why there is no invoice.
    """
    bill, payment = item.bill, item.payment
    lines = shown_lines(bill.parsed_lines)
    more: dict[str, Any] = {"reason": bill.reason, "why": bill.why} if internal else {}
    return Invoice(
        month=bill.month,
        month_name=Month.parse(bill.month).label,
        generation=bill.generation,
        state=bill.state,
        state_in_words=words.for_user(item),
        currency=bill.currency,
        calls=bill.calls,
        total_cents=bill.total_cents,
        total=_money(bill, bill.total_cents),
        breakdown=_breakdown(bill, lines),
        exact_usage_cents=plain(bill.usage_cents),
        carried_cents=bill.carried_cents,
        lines=[_line(bill, line) for line in lines],
        stripe_invoice_id=bill.stripe_invoice_id,
        finalized_at=bill.finalized_at,
        hosted_invoice_url=web_address(payment.hosted_invoice_url if payment else None),
        invoice_pdf=web_address(payment.invoice_pdf if payment else None),
        payment=_payment(bill, payment) if payment else None,
        **more,
    )


def usage_of(usage: UserUsage, user_id: str) -> Usage:
    """Return what is answered of one user's usage."""
    days, projected = usage.days, usage.projected
    return Usage(
        user_id=user_id,
        month=str(usage.month),
        month_name=usage.month.label,
        source=usage.source,
        as_of=usage.as_of,
        currency=usage.currency,
        calls=usage.calls,
        exact_usage_cents=plain(usage.usage_cents),
        included_cents=usage.included_cents,
        days=None
        if days is None
        else [Day(day=each.day, calls=each.calls, exact_usage_cents=plain(each.cost_cents)) for each in days],
        projection=Projection(**_charged(usage, projected), method=METHOD) if projected else None,
        **_charged(usage, usage.charge),
    )


def web_address(url: str | None) -> str | None:
    """Return a web page's address; None for what is none, or no address that a page may link to."""
    return url if url and url.startswith(("https://", "http://")) else None


def _charged(usage: UserUsage, charge: Charge) -> dict[str, Any]:
    return {**asdict(charge), "due": usage.money(charge.due_cents)}


def _breakdown(bill: Bill, lines: Sequence[Line]) -> Breakdown:
    usage_cents = sum(line.amount_cents for line in lines if line.kind == USAGE)
    known_cents = usage_cents - bill.covered_cents + bill.late_cents - bill.credit_applied_cents
    return Breakdown(
        usage_cents=usage_cents,
        covered_cents=bill.covered_cents,
        late_cents=bill.late_cents,
        credit_applied_cents=bill.credit_applied_cents,
        other_cents=bill.total_cents - known_cents,
    )


def _line(bill: Bill, line: Line) -> InvoiceLine:
    return InvoiceLine(
        kind=line.kind,
        description=line.description,
        amount_cents=line.amount_cents,
        amount=_money(bill, line.amount_cents),
        usage_month=line.usage_month,
        calls=line.calls,
    )


def _payment(bill: Bill, payment: Payment) -> InvoicePayment:
    found = InvoicePayment.model_validate(payment)
    found.amount_due = _money(bill, payment.amount_due_cents)
    found.amount_paid = _money(bill, payment.amount_paid_cents)
    return found


def _money(bill: Bill, amount_cents: int) -> str:
    return format_money(amount_cents, bill.currency, grouping=True)
