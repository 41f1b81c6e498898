"""What a user's invoices and grants say, as programs read them and as the user's page shows them."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, Field

from spell_billing.core.grants import Grant
from spell_billing.core.lines import USAGE, Line, shown_lines
from spell_billing.core.money import format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.browsing import UserBill
from spell_billing.ledger.payments import Payment, payment_in_words
from spell_billing.ledger.rows import Bill
from spell_billing.web.api import Calls, Cents, Currency, Exact, Moment, Money, MonthName, MonthText, User
from spell_billing.web.pages import for_user


class InvoiceLine(BaseModel):
    """A line of an invoice."""

    kind: str = Field(description="As `usage`, `included`, `late_usage`, `fee`, `credit` or `grant`.")
    description: str = Field(description="As the invoice has it.")
    amount_cents: Cents = Field(description="What it charges; below zero, what it takes off.")
    amount: Money
    usage_month: str = Field(description="The month that the amount is for.")
    calls: Calls


class InvoicePayment(BaseModel):
    """How the payment of an invoice stands."""

    status: str = Field(description="Stripe's: open, paid, uncollectible or void.")
    attempts: int = Field(description="How often Stripe tried to collect it.")
    failed_attempts: int = Field(description="How many of them failed.")
    next_attempt_at: Moment | None = Field(description="When Stripe tries again; null when it does not.")
    amount_due_cents: Cents = Field(description="What the invoice asks for.")
    amount_due: Money
    amount_paid_cents: Cents = Field(description="What was received.")
    amount_paid: Money
    moved_cents: Cents = Field(description="Too little to be charged: moved to the next invoice.")
    from_balance_cents: Cents = Field(description="Paid from the customer's balance.")
    credited_cents: Cents = Field(description="Taken off by credit notes before the payment.")
    refunded_cents: Cents = Field(description="Of what was paid: given back.")
    disputed_cents: Cents = Field(description="Of what was paid: taken back by the bank, in a dispute.")
    in_words: str = Field(description="What became of the payment, for people.")
    as_of: Moment = Field(description="When Stripe said so.")


class Breakdown(BaseModel):
    """The total taken apart: usage - covered + plan + late usage - credit applied + other = total."""

    usage_cents: Cents = Field(description="The month's usage, rounded.")
    covered_cents: Cents = Field(description="What the plan's allowance covers of it.")
    plan_cents: Cents = Field(description="What fees, a minimum and discounts add and take off.")
    late_cents: Cents = Field(description="Usage of earlier months that came late or changed.")
    credit_applied_cents: Cents = Field(description="Credit of earlier months.")
    other_cents: Cents = Field(description="What is left, as what grants pay.")


class Invoice(BaseModel):
    """A bill of a user. `reason` and `why` are answered to the secret alone."""

    month: MonthText
    month_name: MonthName
    generation: int = Field(description="Above 1 where an earlier invoice was voided.")
    state: State
    state_in_words: str = Field(description="The same for the user.")
    currency: Currency
    calls: Calls
    total_cents: Cents = Field(description="What the lines come to.")
    total: Money
    discount_cents: int | None = Field(description="What a coupon took off; null where none may.")
    tax_cents: int | None = Field(description="Tax on top of the total; null where none is computed.")
    invoice_cents: Cents = Field(
        description="What the invoice charges: the total less the discount, with tax."
    )
    breakdown: Breakdown
    exact_usage_cents: Exact
    carried_cents: int = Field(
        description="Credit that goes to a later invoice, in minor units; below zero a charge that does."
    )
    lines: list[InvoiceLine] = Field(description="As on the invoice.")
    stripe_invoice_id: str | None = Field(description="Null until there is one.")
    finalized_at: Moment | None = Field(description="When the invoice was finalized.")
    hosted_invoice_url: str | None = Field(
        description="Stripe's page of the invoice; null until Stripe's event about it was read."
    )
    invoice_pdf: str | None = Field(description="Stripe's PDF of it.")
    payment: InvoicePayment | None = Field(description="Null until something is known of it.")
    reason: str | None = Field(default=None, description="Why there is no invoice, for programs.")
    why: str | None = Field(default=None, description="The same in words, with what to do about it.")


class Invoices(BaseModel):
    """A page of a user's invoices."""

    user_id: User
    invoices: list[Invoice] = Field(description="The newest first.")
    next: str | None = Field(description="Where the next page begins: its `before`. Null on the last page.")


_SAME_IN_BILL = (
    *("month", "generation", "state", "currency", "calls", "total_cents", "discount_cents", "tax_cents"),
    *("invoice_cents", "carried_cents", "stripe_invoice_id", "finalized_at"),
)


def invoice_of(item: UserBill, *, internal: bool) -> Invoice:
    """Return what is answered of one bill; the platform itself (`internal`) also learns why it has none."""
    bill, payment = item.bill, item.payment
    lines = shown_lines(bill.parsed_lines, bill.currency)
    more: dict[str, Any] = {"reason": bill.reason, "why": bill.why} if internal else {}
    return Invoice(
        **{name: getattr(bill, name) for name in _SAME_IN_BILL},
        month_name=Month.parse(bill.month).label,
        state_in_words=for_user(item),
        total=_money(bill, bill.total_cents),
        breakdown=_breakdown(bill, lines),
        exact_usage_cents=plain(bill.usage_cents),
        lines=[
            InvoiceLine(**msgspec.structs.asdict(line), amount=_money(bill, line.amount_cents))
            for line in lines
        ],
        hosted_invoice_url=web_address(payment.hosted_invoice_url if payment else None),
        invoice_pdf=web_address(payment.invoice_pdf if payment else None),
        payment=_payment(item, payment) if payment else None,
        **more,
    )


def web_address(url: str | None) -> str | None:
    """Return a web page's address; None for what is none, or no address that a page may link to."""
    return url if url and url.startswith(("https://", "http://")) else None


def _breakdown(bill: Bill, lines: Sequence[Line]) -> Breakdown:
    usage_cents = sum(line.amount_cents for line in lines if line.kind == USAGE)
    own_cents = usage_cents - bill.covered_cents + bill.plan_cents
    known_cents = own_cents + bill.late_cents - bill.credit_applied_cents
    return Breakdown(
        usage_cents=usage_cents,
        covered_cents=bill.covered_cents,
        plan_cents=bill.plan_cents,
        late_cents=bill.late_cents,
        credit_applied_cents=bill.credit_applied_cents,
        other_cents=bill.total_cents - known_cents,
    )


def _payment(item: UserBill, payment: Payment) -> InvoicePayment:
    bill, refunded_cents, disputed_cents = item.bill, item.refunded_cents, item.disputed_cents
    return InvoicePayment(
        **asdict(payment),
        refunded_cents=refunded_cents,
        disputed_cents=disputed_cents,
        amount_due=_money(bill, payment.amount_due_cents),
        amount_paid=_money(bill, payment.amount_paid_cents),
        in_words=payment_in_words(
            payment, bill.currency, refunded_cents=refunded_cents, disputed_cents=disputed_cents
        ),
    )


def _money(bill: Bill, amount_cents: int) -> str:
    return format_money(amount_cents, bill.currency, grouping=True)


class UserGrant(BaseModel):
    """One grant: granted - used - revoked - expired = left."""

    grant_id: str = Field(description="Names the grant.")
    kind: Literal["granted", "paid"] = Field(description="Promotional, or bought by the user.")
    currency: Currency
    granted_cents: Cents = Field(description="What it began with.")
    used_cents: Cents = Field(description="What paid for bills.")
    revoked_cents: Cents = Field(description="What was taken back.")
    expired_cents: Cents = Field(description="What was left when it expired.")
    left_cents: Cents = Field(description="What still pays for bills.")
    left: Money
    granted_at: Moment = Field(description="When it was made.")
    expires_on: date = Field(description="It pays for months that begin before this day (UTC).")


class Grants(BaseModel):
    """A user's grants."""

    user_id: User
    grants: list[UserGrant] = Field(description="The oldest first.")


def grants_answer(user_id: str, found: Sequence[Grant]) -> Grants:
    """Return the answer for a user: what pays for this user's bills, also where it was made for another."""
    return Grants(user_id=user_id, grants=[_grant(each) for each in found])


def _grant(grant: Grant) -> UserGrant:
    left_cents = grant.left_cents - grant.expired_cents
    return UserGrant(
        grant_id=grant.grant_id,
        kind="paid" if grant.kind == "paid" else "granted",
        currency=grant.currency,
        granted_cents=grant.amount_cents,
        used_cents=grant.applied_cents,
        revoked_cents=grant.revoked_cents,
        expired_cents=grant.expired_cents,
        left_cents=left_cents,
        left=format_money(left_cents, grant.currency, grouping=True),
        granted_at=grant.granted_at,
        expires_on=grant.expires_on,
    )
