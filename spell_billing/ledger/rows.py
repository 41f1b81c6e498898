"""Rows of the ledger as values: a bill, a month, and a change of state with its audit entry."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from spell_billing.core.drafting import Draft
from spell_billing.core.lines import (
    BROUGHT,
    CREDIT,
    INCLUDED,
    LATE_KINDS,
    PLAN_KINDS,
    TOLD_TO_OTHERS,
    Line,
    dump_lines,
    lines_hash,
    load_lines,
)
from spell_billing.core.money import plain
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, Reason, State, words
from spell_billing.core.pricing import dump_rating
from spell_billing.core.terms import LEFT_OUT, NEGATIVE_LINE, NOT_PLACED, ON, Terms, dump_terms, load_terms
from spell_billing.ledger.payments import Payment

DRAFTED = "drafted"
"""The audit trail's action for all of a month's drafts: one entry, of no user."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and in which Dagster run (empty outside of one)."""

    name: str
    run_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One user's bill of a month as the ledger has it. Amounts in minor units of `currency`."""

    id: int
    month: str
    user_id: str
    generation: int
    state: State
    reason: Reason | None = None
    message: str | None = None
    stripe_customer_id: str | None = None
    currency: str
    plan_id: str | None = None
    calls: int
    usage_cents: Decimal
    total_cents: int
    included_cents: int
    rating: str | None = None
    covered_cents: int
    plan_cents: int = 0
    late_cents: int
    credit_applied_cents: int
    carried_cents: int
    late_lines: int
    unbilled_calls: int
    unbilled_usage_cents: Decimal
    description: str
    lines: str
    lines_hash: str
    stripe_invoice_id: str | None = None
    stripe_request_id: str | None = None
    request_attempt: int
    run_id: str
    created_at: datetime
    updated_at: datetime
    finalized_at: datetime | None = None
    terms: str | None = None
    tax_cents: int | None = None
    discount_cents: int | None = None

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


def content_of(draft: Draft) -> dict[str, Any]:
    """Return the columns of a bill that its draft decides."""
    account = draft.account
    customer_id = account.stripe_customer_id if account else None
    lines, terms = dump_lines(draft.lines), dump_terms(draft.terms)
    return {
        "state": draft.state,
        "reason": draft.reason,
        "stripe_customer_id": customer_id,
        "currency": draft.currency,
        "plan_id": account.plan_id if account else None,
        "calls": draft.calls,
        "usage_cents": draft.usage_cents,
        "total_cents": draft.total_cents,
        "included_cents": draft.rating.included_cents,
        "rating": dump_rating(draft.rating),
        "carried_cents": draft.carried_cents,
        **line_sums(draft.lines),
        "description": draft.description,
        "lines": lines,
        "lines_hash": lines_hash(
            customer_id or "", draft.currency, draft.description, msgspec.Raw(lines), terms
        ),
        "terms": terms,
    }


DRAFT_COLUMNS = (
    *("user_id", "state", "reason", "stripe_customer_id", "currency", "plan_id", "calls", "usage_cents"),
    *("total_cents", "included_cents", "rating", "carried_cents"),
    *("covered_cents", "plan_cents", "late_cents", "credit_applied_cents", "late_lines"),
    *("description", "lines", "lines_hash", "terms"),
)
"""What a draft decides of a bill, in the order of a `DraftRow`."""

DraftRow = tuple[object, ...]
"""The values of `DRAFT_COLUMNS`, texts and numbers, as drivers take them fastest."""


_USER, _CURRENCY, _TOTAL, _HASH = map(
    DRAFT_COLUMNS.index, ("user_id", "currency", "total_cents", "lines_hash")
)


def fingerprint_part(row: DraftRow) -> str:
    """Write what the fingerprint of a month's drafts takes of a bill: see `drafts_hash`."""
    return f"{row[_HASH]}|{row[_CURRENCY]}|{row[_TOTAL]}|{row[_USER]}\n"


def draft_row(draft: Draft) -> DraftRow:
    """Return the columns that a draft decides, for writing many of them."""
    content = content_of(draft)
    content["user_id"], content["usage_cents"] = draft.user_id, plain(draft.usage_cents)
    # Drivers take longer for a member of an enumeration than for its text.
    content["state"] = draft.state.value
    content["reason"] = draft.reason and draft.reason.value
    return tuple(content[name] for name in DRAFT_COLUMNS)


_SUMS = (
    ("covered_cents", -1, {INCLUDED}),
    ("plan_cents", 1, PLAN_KINDS),
    ("late_cents", 1, LATE_KINDS),
    ("credit_applied_cents", -1, {CREDIT, BROUGHT}),
)
_SUMMED_IN = {kind: (name, sign) for name, sign, kinds in _SUMS for kind in kinds}
_NO_SUMS = {**dict.fromkeys((name for name, *_ in _SUMS), 0), "late_lines": 0}


def line_sums(lines: Sequence[Line]) -> dict[str, Any]:
    """Return the columns that sum a bill's lines by kind, in minor units."""
    sums = _NO_SUMS.copy()
    for line in lines:
        if line.kind in _SUMMED_IN:
            name, sign = _SUMMED_IN[line.kind]
            sums[name] += sign * line.amount_cents
        sums["late_lines"] += line.kind in TOLD_TO_OTHERS
    return sums


def new_bill_values(
    month: Month, draft: Draft, *, generation: int, run_id: str, now: datetime
) -> dict[str, Any]:
    """Return the columns of a new bill that are not null."""
    beside = beside_content(month, generation=generation, run_id=run_id, now=now)
    return {"user_id": draft.user_id, **content_of(draft), **beside}


def beside_content(month: Month, *, generation: int, run_id: str, now: datetime) -> dict[str, Any]:
    """Return the columns of a new bill that its draft does not decide."""
    return {
        "month": str(month),
        "generation": generation,
        "unbilled_calls": 0,
        "unbilled_usage_cents": Decimal(0),
        "request_attempt": 1,
        "run_id": run_id,
        "created_at": now,
        "updated_at": now,
    }
