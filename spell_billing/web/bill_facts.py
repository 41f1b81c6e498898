"""What a user's invoice says, as programs read it in the history API and as the user's page shows it."""

from collections.abc import Sequence
from typing import Any

from spell_billing.core.drafting import USAGE, Line
from spell_billing.core.lines import shown_lines
from spell_billing.core.money import format_money, plain
from spell_billing.core.month import Month
from spell_billing.ledger.browsing import UserBill
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Bill
from spell_billing.web import words


def invoice_facts(item: UserBill, *, internal: bool) -> dict[str, Any]:
    """Return the facts of one bill. Amounts are integer minor units of `currency`.

    Args:
        item: The bill and what is known of its payment.
        internal: Whether reader is the platform itself: then also why there is no invoice and what to do.
    """
    bill, payment = item.bill, item.payment
    lines = shown_lines(bill.parsed_lines, bill.currency)
    facts = {
        "month": bill.month,
        "month_name": Month.parse(bill.month).label,
        "generation": bill.generation,
        "state": bill.state.value,
        "state_in_words": words.for_user(item),
        "currency": bill.currency,
        "calls": bill.calls,
        "total_cents": bill.total_cents,
        "total": _money(bill, bill.total_cents),
        "discount_cents": bill.discount_cents,
        "tax_cents": bill.tax_cents,
        "invoice_cents": bill.invoice_cents,
        "breakdown": _breakdown(bill, lines),
        "exact_usage_cents": plain(bill.usage_cents),
        "carried_cents": bill.carried_cents,
        "lines": [_line(bill, line) for line in lines],
        "stripe_invoice_id": bill.stripe_invoice_id,
        "finalized_at": bill.finalized_at.isoformat() if bill.finalized_at else None,
        "hosted_invoice_url": web_address(payment.hosted_invoice_url if payment else None),
        "invoice_pdf": web_address(payment.invoice_pdf if payment else None),
        "payment": _payment(bill, payment) if payment else None,
    }
    if internal:
        facts |= {"reason": bill.reason.value if bill.reason else None, "why": bill.why}
    return facts


def web_address(url: str | None) -> str | None:
    """Return a web page's address; None for what is none, or no address that a page may link to."""
    return url if url and url.startswith(("https://", "http://")) else None


def _breakdown(bill: Bill, lines: Sequence[Line]) -> dict[str, int]:
    """Take the total apart: usage - covered + late - credit applied + other = total."""
    usage_cents = sum(line.amount_cents for line in lines if line.kind == USAGE)
    known_cents = usage_cents - bill.covered_cents + bill.late_cents - bill.credit_applied_cents
    return {
        "usage_cents": usage_cents,
        "covered_cents": bill.covered_cents,
        "late_cents": bill.late_cents,
        "credit_applied_cents": bill.credit_applied_cents,
        "other_cents": bill.total_cents - known_cents,
    }


def _line(bill: Bill, line: Line) -> dict[str, Any]:
    return {
        "kind": line.kind,
        "description": line.description,
        "amount_cents": line.amount_cents,
        "amount": _money(bill, line.amount_cents),
        "usage_month": line.usage_month,
        "calls": line.calls,
    }


def _payment(bill: Bill, payment: Payment) -> dict[str, Any]:
    return {
        "status": payment.status,
        "attempts": payment.attempts,
        "failed_attempts": payment.failed_attempts,
        "next_attempt_at": payment.next_attempt_at.isoformat() if payment.next_attempt_at else None,
        "amount_due_cents": payment.amount_due_cents,
        "amount_due": _money(bill, payment.amount_due_cents),
        "amount_paid_cents": payment.amount_paid_cents,
        "amount_paid": _money(bill, payment.amount_paid_cents),
        "as_of": payment.as_of.isoformat(),
    }


def _money(bill: Bill, amount_cents: int) -> str:
    return format_money(amount_cents, bill.currency, grouping=True)
