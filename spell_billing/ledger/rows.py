"""Rows of the ledger as values: a bill, a month, and a change of state with its audit entry."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from msgspec.structs import asdict
from sqlalchemy.engine import RowMapping

from spell_billing.core.drafting import (
    CREDIT,
    INCLUDED,
    LATE_KINDS,
    USAGE,
    Draft,
    Line,
    dump_lines,
    lines_hash,
    load_lines,
)
from spell_billing.core.lines import BESIDE_USAGE, BROUGHT, LEDGER_ONLY
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, Reason, State, words
from spell_billing.core.terms import LEFT_OUT, NEGATIVE_LINE, NOT_PLACED, ON, Terms, dump_terms, load_terms
from spell_billing.ledger.payments import Payment

DRAFTED = "drafted"
"""The audit trail's action for all of a month's drafts: one entry, of no user."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and in which Dagster run (empty outside of one)."""

    name: str
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class Bill:
    """One user's bill of a month as the ledger has it. Amounts in minor units of `currency`."""

    id: int
    month: str
    user_id: str
    generation: int
    state: State
    reason: Reason | None
    message: str | None
    stripe_customer_id: str | None
    currency: str
    plan_id: str | None
    calls: int
    usage_cents: Decimal
    total_cents: int
    included_cents: int
    covered_cents: int
    late_cents: int
    credit_applied_cents: int
    carried_cents: int
    late_lines: int
    unbilled_calls: int
    unbilled_usage_cents: Decimal
    description: str
    lines: str
    lines_hash: str
    stripe_invoice_id: str | None
    stripe_request_id: str | None
    request_attempt: int
    run_id: str
    created_at: datetime
    updated_at: datetime
    finalized_at: datetime | None
    terms: str | None = None
    tax_cents: int | None = None
    discount_cents: int | None = None

    @classmethod
    def from_mapping(cls, row: RowMapping) -> "Bill":
        """Build a bill from a result row of `ledger_invoices`."""
        values: dict[str, Any] = {str(name): value for name, value in row.items()}
        values["state"] = State(values["state"])
        values["reason"] = Reason(values["reason"]) if values["reason"] else None
        return cls(**values)

    @property
    def parsed_lines(self) -> tuple[Line, ...]:
        """The frozen invoice lines."""
        return load_lines(self.lines)

    @property
    def parsed_terms(self) -> Terms:
        """How the bill is collected, and what its invoice says beside the lines."""
        return load_terms(self.terms)

    @property
    def invoice_cents(self) -> int:
        """The total of the invoice: that of the lines, less the discount, with the tax on top."""
        return self.total_cents - (self.discount_cents or 0) + (self.tax_cents or 0)

    @property
    def without_tax(self) -> str | None:
        """Why the invoice is without the tax that was asked for; None where it is not."""
        if self.parsed_terms.tax == LEFT_OUT:
            return NEGATIVE_LINE
        not_computed = self.state in INVOICED and self.tax_cents is None
        return NOT_PLACED if self.parsed_terms.tax == ON and not_computed else None

    @property
    def why(self) -> str | None:
        """Why there is no invoice and what to do about it, in words; None when all is well."""
        return words(self.reason, self.message) if self.reason else None


@dataclass(frozen=True, slots=True)
class MonthRecord:
    """A drafted month: what was frozen, and how far billing got."""

    month: str
    usage_version: str
    users: int
    calls: int
    usage_cents: Decimal
    drafted_at: datetime
    billing_started_at: datetime | None
    billed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Change:
    """A bill's new content, and what to write into the audit trail about it.

    `before` guards the update: it fails when another process changed the bill's state meanwhile. `payment` is
    what Stripe said of the invoice's payment with the same answer, where that is more than its state.
    """

    before: Bill
    after: Bill
    action: str
    detail: str | None = None
    payment: Payment | None = None


class Content(msgspec.Struct, frozen=True):
    """The columns of a bill that its draft decides, named as in `ledger_invoices`; the exact amount first."""

    usage_cents: Decimal
    state: State
    reason: Reason | None
    stripe_customer_id: str | None
    currency: str
    plan_id: str | None
    calls: int
    total_cents: int
    included_cents: int
    covered_cents: int
    late_cents: int
    credit_applied_cents: int
    carried_cents: int
    late_lines: int
    description: str
    lines: str
    lines_hash: str
    terms: str | None


def content_of(draft: Draft) -> Content:
    """Return the columns of a bill that its draft decides."""
    account, lines = draft.account, draft.lines
    customer_id = account.stripe_customer_id if account else None
    sums = line_sums(lines)
    terms = dump_terms(draft.terms)
    dumped = dump_lines(lines)
    return Content(
        draft.usage_cents,
        draft.state,
        draft.reason,
        customer_id,
        draft.currency,
        account.plan_id if account else None,
        draft.calls,
        draft.total_cents,
        draft.included_cents,
        sums.covered_cents,
        sums.late_cents,
        sums.credit_applied_cents,
        draft.carried_cents,
        sums.late_lines,
        draft.description,
        dumped,
        lines_hash(customer_id or "", draft.currency, draft.description, msgspec.Raw(dumped), terms),
        terms,
    )


class LineSums(msgspec.Struct, frozen=True):
    """The columns that sum a bill's lines by kind, in minor units."""

    covered_cents: int = 0
    late_cents: int = 0
    credit_applied_cents: int = 0
    late_lines: int = 0


_USAGE_ALONE = LineSums()


def line_sums(lines: Sequence[Line]) -> LineSums:
    """Sum a bill's lines by kind."""
    if len(lines) == 1 and lines[0].kind == USAGE:
        return _USAGE_ALONE
    return LineSums(
        covered_cents=-sum(line.amount_cents for line in lines if line.kind == INCLUDED),
        late_cents=sum(line.amount_cents for line in lines if line.kind in LATE_KINDS),
        credit_applied_cents=-sum(line.amount_cents for line in lines if line.kind in {CREDIT, BROUGHT}),
        late_lines=sum(1 for line in lines if line.kind in LATE_KINDS | LEDGER_ONLY | BESIDE_USAGE),
    )


def new_bill_values(
    month: Month, draft: Draft, *, generation: int, run_id: str, now: datetime
) -> dict[str, Any]:
    """Return all columns of a new bill but its id."""
    return {
        "month": str(month),
        "user_id": draft.user_id,
        "generation": generation,
        **asdict(content_of(draft)),
        "message": None,
        "unbilled_calls": 0,
        "unbilled_usage_cents": Decimal(0),
        "stripe_invoice_id": None,
        "stripe_request_id": None,
        "request_attempt": 1,
        "finalized_at": None,
        "tax_cents": None,
        "discount_cents": None,
        "run_id": run_id,
        "created_at": now,
        "updated_at": now,
    }
