"""Rows of the ledger as values: a bill, a month, and a change of state with its audit entry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy.engine import RowMapping

from spell_billing.core.drafting import (
    CREDIT,
    INCLUDED,
    LATE_KINDS,
    UNBILLED,
    USAGE,
    Draft,
    Line,
    dump_lines,
    lines_hash,
    load_lines,
)
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State, words


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

    `before` guards the update: it fails when another process changed the bill's state meanwhile.
    """

    before: Bill
    after: Bill
    action: str
    detail: str | None = None


_USAGE_ALONE = {"covered_cents": 0, "credit_applied_cents": 0, "late_cents": 0, "late_lines": 0}


def content_of(draft: Draft) -> dict[str, Any]:
    """Give the columns of a bill that its draft decides."""
    account = draft.account
    customer_id = account.stripe_customer_id if account else None
    return {
        "state": draft.state,
        "reason": draft.reason,
        "message": None,
        "stripe_customer_id": customer_id,
        "currency": draft.currency,
        "plan_id": account.plan_id if account else None,
        "calls": draft.calls,
        "usage_cents": draft.usage_cents,
        "total_cents": draft.total_cents,
        "included_cents": draft.included_cents,
        **line_sums(draft.lines),
        "carried_cents": draft.carried_cents,
        "description": draft.description,
        "lines": dump_lines(draft.lines),
        "lines_hash": lines_hash(customer_id or "", draft.currency, draft.description, draft.lines),
    }


def line_sums(lines: Sequence[Line]) -> Mapping[str, int]:
    """Give the columns that sum a bill's lines by kind, in minor units."""
    if len(lines) == 1 and lines[0].kind == USAGE:
        return _USAGE_ALONE
    return {
        "covered_cents": -sum(line.amount_cents for line in lines if line.kind == INCLUDED),
        "credit_applied_cents": -sum(line.amount_cents for line in lines if line.kind == CREDIT),
        "late_cents": sum(line.amount_cents for line in lines if line.kind in LATE_KINDS),
        "late_lines": sum(1 for line in lines if line.kind in LATE_KINDS or line.kind == UNBILLED),
    }


def new_bill_values(
    month: Month, draft: Draft, *, generation: int, run_id: str, now: datetime
) -> dict[str, Any]:
    """Give all columns of a new bill but its id."""
    return {
        "month": str(month),
        "user_id": draft.user_id,
        "generation": generation,
        **content_of(draft),
        "unbilled_calls": 0,
        "unbilled_usage_cents": Decimal(0),
        "stripe_invoice_id": None,
        "stripe_request_id": None,
        "request_attempt": 1,
        "run_id": run_id,
        "created_at": now,
        "updated_at": now,
        "finalized_at": None,
    }
