"""Stripe's objects as immutable values: a stored event or answer is a reference, never a copy.

All amounts are in minor units of the currency (`_cents`), all times in Unix seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Metadata = Mapping[str, str]

ABSENT = "<absent>"

FINALIZED = frozenset({"open", "paid", "uncollectible"})
"""Statuses of an invoice that a customer was billed with; `void` does not count."""


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer; `balances_cents` by currency: positive is owed to us, negative is their credit."""

    id: str
    created: int
    email: str | None = None
    name: str | None = None
    description: str | None = None
    phone: str | None = None
    metadata: Metadata = field(default_factory=dict)
    currency: str | None = None
    balances_cents: Mapping[str, int] = field(default_factory=dict)
    next_invoice_sequence: int = 1
    test_clock: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an invoice."""

    id: str
    item: str
    amount_cents: int
    currency: str
    description: str | None
    metadata: Metadata
    period_start: int
    period_end: int
    discountable: bool = True


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice in one of its states; a change makes a new value."""

    id: str
    customer: str
    customer_email: str | None
    customer_name: str | None
    created: int
    currency: str
    status: str = "draft"
    description: str | None = None
    footer: str | None = None
    custom_fields: tuple[tuple[str, str], ...] = ()
    statement_descriptor: str | None = None
    metadata: Metadata = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    auto_advance: bool = False
    collection_method: str = "charge_automatically"
    due_date: int | None = None
    effective_at: int | None = None
    number: str | None = None
    discount: str | None = None
    discount_percent: str = "0"
    discount_cents: int = 0
    automatic_tax: bool = False
    tax_status: str | None = None
    tax_cents: int = 0
    total_cents: int = 0
    amount_due_cents: int = 0
    amount_paid_cents: int = 0
    paid_off_stripe_cents: int = 0
    starting_balance_cents: int = 0
    ending_balance_cents: int | None = None
    attempt_count: int = 0
    attempted: bool = False
    next_payment_attempt: int | None = None
    payment_intent: str | None = None
    processing: bool = False
    """A bank debit is under way: it takes days."""
    finalized_at: int | None = None
    paid_at: int | None = None
    voided_at: int | None = None
    uncollectible_at: int | None = None
    pre_payment_credit_cents: int = 0
    post_payment_credit_cents: int = 0
    from_invoice: str | None = None
    latest_revision: str | None = None
    test_clock: str | None = None
    shown: Mapping[str, object] = field(default_factory=dict)
    """What its JSON shows instead of the double's own values; `ABSENT` leaves a field out."""

    @property
    def amount_remaining_cents(self) -> int:
        """What the customer still has to pay."""
        return max(0, self.amount_due_cents - self.amount_paid_cents - self.pre_payment_credit_cents)


@dataclass(frozen=True, slots=True)
class InvoiceItem:
    """A pending item (`invoice` is None), or one that was taken onto an invoice."""

    id: str
    customer: str
    created: int
    line: Line
    invoice: str | None = None


@dataclass(frozen=True, slots=True)
class _Money:
    id: str
    created: int
    amount_cents: int
    currency: str
    payment_intent: str


@dataclass(frozen=True, slots=True)
class Charge(_Money):
    """One attempt at a customer's card."""

    customer: str
    invoice: str
    failure_code: str | None = None
    decline_code: str | None = None
    refunded_cents: int = 0
    disputed: bool = False


@dataclass(frozen=True, slots=True)
class Refund(_Money):
    """Money given back on a charge; `status` is `succeeded`, until the bank cannot take it: `failed`."""

    charge: str
    status: str = "succeeded"
    failure_reason: str | None = None
    reason: str | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dispute(_Money):
    """A charge that the customer's bank takes back; `status` is `needs_response`, `won` or `lost`."""

    charge: str
    status: str = "needs_response"
    reason: str = "general"


@dataclass(frozen=True, slots=True)
class CreditNote:
    """A reduction of a finalized invoice."""

    id: str
    created: int
    customer: str
    invoice: str
    number: str
    amount_cents: int
    currency: str
    pre_payment_cents: int
    credit_cents: int = 0
    out_of_band_cents: int = 0
    refunds: tuple[str, ...] = ()
    memo: str | None = None
    reason: str | None = None
    metadata: Metadata = field(default_factory=dict)
    status: str = "issued"
    voided_at: int | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """What is answered about an object that was just deleted."""

    id: str
    object: str


Snapshot = Customer | Invoice | InvoiceItem | CreditNote | Charge | Refund | Dispute


@dataclass(frozen=True, slots=True)
class Event:
    """A thing that happened, with the object as it was then."""

    id: str
    type: str
    created: int
    snapshot: Snapshot
    previous: Mapping[str, object] | None = None
    request_id: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that a client broke: two finalized invoices carry one billing key."""

    billing_key: str
    invoices: tuple[str, ...]


def own_fields(value: Any, *without: str) -> dict[str, Any]:
    """Return an object's fields under Stripe's names, which have no unit, less those of other attributes."""
    names = [each.name for each in fields(value) if each.name not in without]
    return {name.removesuffix("_cents"): getattr(value, name) for name in names}
