"""What an invoice of Stripe's says about its payment, as the ledger keeps it, and why one failed in words.

Stripe's documentation, "Decline codes", tells what each means and what the customer can do.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from spell_billing.core.keys import GENERATION, KEY, MONTH, USER, billing_key
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.unpaid import BillName

REASONS = "payments.data.payment.payment_intent"
"""What to expand when an invoice is retrieved, to learn why its payment failed.

Since API 2025-03-31 an invoice names neither charge nor payment intent. Stripe expands four levels deep, so
this works for one invoice, not in a list.
"""

STATUSES = frozenset({"draft", "open", "paid", "uncollectible", "void"})

NOT_GIVEN = "not_given"
"""The decline code where Stripe gives none."""
NO_PAYMENT_METHOD = "no_payment_method"
AUTHENTICATION_REQUIRED = "authentication_required"
_WORDS = {
    NO_PAYMENT_METHOD: "The customer has no payment method on file.",
    NOT_GIVEN: "Stripe gives no reason.",
    AUTHENTICATION_REQUIRED: "The bank wants the customer to confirm the payment.",
    "card_declined": "The bank declined the card.",
    "card_not_supported": "The card does not support this kind of purchase.",
    "card_velocity_exceeded": "The card is over its limit.",
    "currency_not_supported": "The card does not support the currency.",
    "do_not_honor": "The bank declined the card without a reason.",
    "expired_card": "The card has expired.",
    "fraudulent": "The payment was stopped as possibly fraudulent.",
    "generic_decline": "The bank declined the card without a reason.",
    "incorrect_number": "The card number is wrong.",
    "insufficient_funds": "The card has too little money on it.",
    "invalid_account": "The card, or its account, is not valid.",
    "lost_card": "The card is reported lost.",
    "pickup_card": "The card cannot be used.",
    "processing_error": "An error occurred while the card was charged.",
    "stolen_card": "The card is reported stolen.",
    "transaction_not_allowed": "The bank does not allow the payment.",
    "try_again_later": "The bank declined the card for now.",
}

_LONGEST_CODE, _LONGEST_MESSAGE = 80, 300


def bill_named_by(invoice: Mapping[str, Any]) -> BillName | None:
    """Return the bill that the invoice's metadata names; None for an invoice that is not ours."""
    metadata = invoice.get("metadata") or {}
    month, user_id, generation = (metadata.get(name) or "" for name in (MONTH, USER, GENERATION))
    if not generation.isdecimal() or metadata.get(KEY) != billing_key(month, user_id, int(generation)):
        return None
    return BillName(month, user_id, int(generation))


def bill_of_key(invoice: Mapping[str, Any], bills: Iterable[Bill]) -> Bill | None:
    """Return the bill whose key the invoice carries."""
    key = invoice["metadata"].get(KEY)
    return next((b for b in bills if billing_key(b.month, b.user_id, b.generation) == key), None)


def payment_of(
    invoice: Mapping[str, Any], bill: BillName | Bill, *, as_of: datetime, way: str, failed: bool = False
) -> Payment:
    """Return how the payment of a finalized invoice stands, by fields that all API versions have.

    `as_of` is when Stripe said so, `way` how it was heard. The last attempt is known to have `failed`, or its
    payments say so, retrieved with `REASONS`, or a planned next attempt: an attempt alone may still be under
    way, as with a bank debit.

    Raises:
        KeyError: when the invoice lacks what is needed.
        ValueError: for a status that is not known, or an amount that is none.
        TypeError: for an amount that is null.
    """
    if invoice["status"] not in STATUSES:
        raise ValueError(f"an invoice of the unknown status {invoice['status']!r}")
    attempts, next_attempt = int(invoice.get("attempt_count") or 0), invoice.get("next_payment_attempt")
    if failed or _last_attempt_failed(invoice):
        failed_attempts = max(attempts, 1)
    else:
        failed_attempts = attempts if next_attempt else 0
    reason = _reason(invoice) if failed_attempts else None
    return Payment(
        stripe_invoice_id=invoice["id"],
        month=bill.month,
        user_id=bill.user_id,
        generation=bill.generation,
        status=invoice["status"],
        attempts=attempts,
        failed_attempts=failed_attempts,
        next_attempt_at=datetime.fromtimestamp(next_attempt, UTC) if next_attempt else None,
        amount_due_cents=int(invoice["amount_due"]),
        amount_paid_cents=int(invoice["amount_paid"]),
        decline_code=reason[0] if reason else None,
        message=reason[1] if reason else None,
        hosted_invoice_url=invoice.get("hosted_invoice_url"),
        invoice_pdf=invoice.get("invoice_pdf"),
        as_of=as_of,
        way=way,
        **_balance(invoice),
        # What credit notes give back after the payment is a refund, or stands on the customer's balance.
        credited_cents=int(invoice.get("pre_payment_credit_notes_amount") or 0),
    )


def payment_beside(bill: Bill, invoice: Mapping[str, Any]) -> Payment | None:
    """Return what the answer to a finalization says of the payment, where it is not simply the bill's total.

    The customer's balance, or Stripe's smallest charge, makes another amount due.
    """
    if int(invoice["amount_due"]) == bill.invoice_cents:
        return None
    return payment_of(invoice, bill, as_of=datetime.now(UTC), way="finalized")


def _balance(invoice: Mapping[str, Any]) -> dict[str, int]:
    """Return what the invoice moved to the customer's next one, and what the customer's balance paid of it.

    A total below Stripe's smallest charge is not charged: it is moved, and the invoice counts as paid. A
    balance above zero is what the customer owes.
    """
    if invoice.get("ending_balance") is None:
        return {}
    starting, ending = int(invoice.get("starting_balance") or 0), int(invoice["ending_balance"])
    return {
        "moved_cents": max(ending, 0) - max(starting, 0),
        "from_balance_cents": max(-starting, 0) - max(-ending, 0),
    }


def intents_of(invoice: Mapping[str, Any]) -> list[str]:
    """Return the payment intents of an invoice whose payments are expanded, by their ids."""
    found = ((each.get("payment") or {}) for each in (invoice.get("payments") or {}).get("data") or [])
    intents = (each.get("payment_intent") for each in found)
    return [str(each["id"] if isinstance(each, Mapping) else each) for each in intents if each]


def is_unclear(invoice: Mapping[str, Any]) -> bool:
    """Return whether only the invoice's payments say if its last attempt failed or is still under way."""
    tried = bool(invoice["attempt_count"]) and not invoice["next_payment_attempt"]
    return invoice["status"] == "open" and tried


def _last_attempt_failed(invoice: Mapping[str, Any]) -> bool:
    intent = _intent(invoice)
    failed = {"requires_payment_method", "requires_action", "canceled"}
    return bool(invoice.get("attempt_count")) and intent is not None and intent["status"] in failed


def _intent(invoice: Mapping[str, Any]) -> Mapping[str, Any] | None:
    paid_by = (invoice.get("payments") or {}).get("data") or []
    chosen = next((each for each in paid_by if each.get("is_default")), paid_by[0] if paid_by else {})
    intent = (chosen.get("payment") or {}).get("payment_intent")
    return intent if isinstance(intent, Mapping) else None


def _reason(invoice: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """Return decline code and message of an invoice retrieved with `REASONS`; None for any other."""
    if "payments" not in invoice:
        return None
    intent = _intent(invoice)
    if intent is None:
        return NOT_GIVEN, None
    error = intent.get("last_payment_error") or {}
    code = error.get("decline_code") or error.get("code")
    if intent["status"] == "requires_action":
        code = AUTHENTICATION_REQUIRED
    elif code is None and intent["status"] == "requires_payment_method":
        code = NO_PAYMENT_METHOD
    message = " ".join(str(error.get("message") or "").split())
    return str(code or NOT_GIVEN)[:_LONGEST_CODE], message[:_LONGEST_MESSAGE] or None


def reason_in_words(decline_code: str | None, message: str | None) -> str:
    """Return a reason in words, with its code.

    Args:
        decline_code: Stripe's, or one of the above; None: Stripe was not asked yet.
        message: Stripe's own words, for a code that has none here.
    """
    if decline_code is None:
        return "not known yet."
    words = _WORDS.get(decline_code) or message or "The payment was declined."
    return words if decline_code == NOT_GIVEN else f"{words} ({decline_code})"
