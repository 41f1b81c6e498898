"""What a reconciliation finds: the three sides in numbers, and each difference with whom it concerns."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from spell_billing.core.money import plain
from spell_billing.core.month import Month
from spell_billing.ledger.charges import Kept
from spell_billing.ledger.rows import Bill
from spell_billing.stripe_api.client import Invoice


class Kind(StrEnum):
    """What is wrong with one user's bill."""

    USAGE_DIFFERS = "usage_differs"
    LINES_DO_NOT_ADD_UP = "lines_do_not_add_up"
    MISSING_IN_LEDGER = "missing_in_ledger"
    MISSING_AT_STRIPE = "missing_at_stripe"
    UNKNOWN_TO_LEDGER = "unknown_to_ledger"
    AMOUNT_DIFFERS = "amount_differs"
    LINES_DIFFER = "lines_differ"
    METADATA_DIFFERS = "metadata_differs"
    CURRENCY_DIFFERS = "currency_differs"
    CUSTOMER_DIFFERS = "customer_differs"
    TWO_FOR_ONE_USER = "two_for_one_user"
    DRAFT_LEFT = "draft_left"
    VOID_AT_STRIPE = "void_at_stripe"
    STANDS_AT_STRIPE = "stands_at_stripe"
    NOT_INVOICED = "not_invoiced"
    IN_REVIEW = "in_review"
    ALLOWANCE_DIFFERS = "allowance_differs"
    PLAN_DIFFERS = "plan_differs"
    LATE_USAGE_DIFFERS = "late_usage_differs"
    CREDIT_NOT_GRANTED = "credit_not_granted"
    GRANT_DIFFERS = "grant_differs"
    GIVEN_BACK_TWICE = "given_back_twice"
    CORRECTION_UNDONE = "correction_undone"
    CONTENT_ALTERED = "content_altered"
    NOT_APPROVED = "not_approved"
    MONEY_DIFFERS = "money_differs"


_REMEDIES = {
    Kind.USAGE_DIFFERS: (
        "The ledger's usage is not the frozen usage, or the frozen rows are not what was added up. Restore "
        "the ledger or the usage store."
    ),
    Kind.LINES_DO_NOT_ADD_UP: "Restore the ledger; void an invoice without usage behind it.",
    Kind.MISSING_IN_LEDGER: "The user has frozen usage and no bill. Bill the month again.",
    Kind.MISSING_AT_STRIPE: "Check that STRIPE_API_KEY belongs to the account that was billed.",
    Kind.UNKNOWN_TO_LEDGER: "Take it into the ledger: bill the month again with --verify.",
    Kind.AMOUNT_DIFFERS: "Someone changed the invoice, or a tax applies. Compare it with `explain`.",
    Kind.LINES_DIFFER: "Compare the lines with `explain`; void the invoice and bill again.",
    Kind.METADATA_DIFFERS: "It was changed at Stripe. Bill the month again with --verify: that restores it.",
    Kind.CURRENCY_DIFFERS: "Compare it with `explain`; void it and bill again if it is wrong.",
    Kind.CUSTOMER_DIFFERS: "Compare it with `explain`; void it and bill again if it is wrong.",
    Kind.TWO_FOR_ONE_USER: "Void one of them at Stripe, then bill the month again with --verify.",
    Kind.DRAFT_LEFT: "Bill the month again with --verify: it deletes drafts that no bill uses.",
    Kind.STANDS_AT_STRIPE: (
        "The ledger holds the bill as void, settled or skipped. If the audit trail says so too, void the "
        "invoice at Stripe; otherwise restore the ledger."
    ),
    Kind.NOT_INVOICED: "`spell-billing explain` says why; fix it, then bill the month again.",
    Kind.IN_REVIEW: "`spell-billing status` says what was found. Approve it, or correct it and bill again.",
    Kind.ALLOWANCE_DIFFERS: "Restore the ledger; if the invoice was sent, void it and bill again.",
    Kind.PLAN_DIFFERS: (
        "Fees, minimum or discounts are not those of the plans that were frozen. Restore the ledger; if "
        "the invoice was sent, void it and bill again."
    ),
    Kind.LATE_USAGE_DIFFERS: (
        "Late lines are not what was recorded, or are rated differently. Restore the ledger or the usage "
        "store; if the invoice was sent, void it and bill again."
    ),
    Kind.CREDIT_NOT_GRANTED: (
        "Bills used more credit than earlier ones granted. Restore the ledger; void the invoice that used it "
        "twice and bill again."
    ),
    Kind.GRANT_DIFFERS: (
        "A bill used a grant that does not cover it, or left out one whose turn it was. Restore the ledger; "
        "if the grant is lost, make it again with the same id; if the invoice was sent, void it and bill "
        "again."
    ),
    Kind.GIVEN_BACK_TWICE: (
        "Money of the invoice was given back, and a later bill gave back for its rows or fees as well. If "
        "both were meant, say so with `spell-billing settle --given-back goodwill`; with `--given-back "
        "correction` the next bill charges what was given back twice."
    ),
    Kind.CORRECTION_UNDONE: (
        "A dispute was won, or a refund failed, after its money was settled as a correction for rows that "
        "were removed: the user pays for them. `spell-billing settle --given-back goodwill` lets the next "
        "bill give them back; if some is still given back, settle that with `--given-back correction`."
    ),
    Kind.CONTENT_ALTERED: (
        "Something other than spell_billing changed the bill, or a decision or move about the user. "
        "`spell-billing explain` shows the audit trail. Restore the ledger's backup."
    ),
    Kind.NOT_APPROVED: (
        "The month was sent without an approval of these drafts, or its bills were changed since the review. "
        "See `spell-billing preview --against`, and void what is wrong."
    ),
    Kind.MONEY_DIFFERS: (
        "Money went back, or came back, and the ledger does not know of it yet. The sensor `payments` reads "
        "it within a minute, or within a day if no event told of it; if it is not running, start the "
        "Dagster daemon. A credit note that Stripe does not know: restore the ledger."
    ),
    Kind.VOID_AT_STRIPE: "If it was meant, record it with `spell-billing void`; it can then be billed again.",
}

_ECHOES = frozenset({Kind.LINES_DIFFER, Kind.CONTENT_ALTERED})
"""Findings that follow from most other alterations of a bill."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference, whom it concerns, and what to do."""

    kind: Kind
    user_id: str
    stripe_invoice_id: str | None
    expected: str
    found: str

    @classmethod
    def of(cls, kind: Kind, bill: Bill, expected: str, found: str) -> "Finding":
        """Return a finding about a bill of the ledger."""
        return cls(kind, bill.user_id, bill.stripe_invoice_id, expected, found)

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return _REMEDIES[self.kind]

    def as_json(self) -> dict[str, Any]:
        """Return the finding for programs."""
        return {**asdict(self), "kind": self.kind.value, "remedy": self.remedy}


@dataclass(slots=True)
class Reconciliation:
    """The four sides in numbers, and every difference between them. Amounts in minor units.

    `ledger_by_currency` and `stripe_by_currency` are invoices' totals, `ledger_tax_cents` of it the tax, and
    `ledger_discount_cents` what coupons took off. `money` is what was received and kept by Stripe, by
    currency; `standing` the invoices at Stripe.
    """

    month: Month
    frozen_users: int = 0
    frozen_calls: int = 0
    frozen_usage_cents: Decimal = Decimal(0)
    ledger_invoices: int = 0
    ledger_by_currency: Counter[str] = field(default_factory=Counter)
    ledger_tax_cents: int = 0
    ledger_discount_cents: int = 0
    stripe_by_currency: Counter[str] = field(default_factory=Counter)
    money: list[Kept] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    standing: list[Invoice] = field(default_factory=list)

    @property
    def stripe_invoices(self) -> int:
        """How many invoices stand at Stripe."""
        return len(self.standing)

    @property
    def ledger_cents(self) -> int:
        """The totals of the ledger's invoices, over all currencies."""
        return self.ledger_by_currency.total()

    @property
    def stripe_cents(self) -> int:
        """The totals of Stripe's invoices, over all currencies."""
        return self.stripe_by_currency.total()

    def drop_echoes(self) -> None:
        """Drop findings that only repeat, in other words, what another one of the same user says."""
        explained = {finding.user_id for finding in self.findings if finding.kind not in _ECHOES}
        self.findings = [
            each for each in self.findings if each.kind not in _ECHOES or each.user_id not in explained
        ]

    @property
    def differences(self) -> list[Finding]:
        """Where two of the sides contradict each other; a user without an invoice is none."""
        return [each for each in self.findings if each.kind not in {Kind.NOT_INVOICED, Kind.IN_REVIEW}]

    def as_json(self) -> dict[str, Any]:
        """Return the reconciliation for programs."""
        amounts = ("currency", "paid_cents", "refunded_cents", "disputed_cents", "kept_cents", "due_cents")
        return {
            "month": str(self.month),
            "clean": not self.findings,
            "frozen": {
                "users": self.frozen_users,
                "calls": self.frozen_calls,
                "usage_cents": plain(self.frozen_usage_cents),
            },
            "ledger": {
                "invoices": self.ledger_invoices,
                "total_cents": self.ledger_cents,
                "by_currency": dict(self.ledger_by_currency),
                "tax_cents": self.ledger_tax_cents,
                "discount_cents": self.ledger_discount_cents,
            },
            "stripe": {
                "invoices": self.stripe_invoices,
                "total_cents": self.stripe_cents,
                "by_currency": dict(self.stripe_by_currency),
            },
            "money": [{name: getattr(each, name) for name in amounts} for each in self.money],
            "findings": [finding.as_json() for finding in self.findings],
        }
