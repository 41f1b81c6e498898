"""What is kept of a Stripe event: the few fields that are used, or what it points to."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from spell_billing.core.keys import GENERATION, KEY, MONTH, USER
from spell_billing.ledger.events import SET_ASIDE, TO_LOOK_AT

_KEPT = (
    *("id", "status", "attempt_count", "next_payment_attempt", "amount_due", "amount_paid"),
    *("hosted_invoice_url", "invoice_pdf", "starting_balance", "ending_balance"),
    *("pre_payment_credit_notes_amount", "post_payment_credit_notes_amount"),
)
_KEPT_METADATA = (KEY, MONTH, USER, GENERATION)

MONEY_BACK = ("charge.refund", "refund.", "charge.dispute.", "credit_note.")
"""What the types of events begin with after which an invoice and its charges are read again."""


class EventOutcome(StrEnum):
    """What became of an event, in `ledger_events.outcome`."""

    HANDLED = "handled"
    IGNORED_TYPE = "ignored_type"
    NOT_OURS = "not_ours"
    DRAFT = "draft"
    TO_LOOK_AT = TO_LOOK_AT
    SET_ASIDE = SET_ASIDE


def content_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of an event: of its invoice, or of what leads to one; empty for any other event."""
    kind, about = str(event["type"]), (event.get("data") or {}).get("object") or {}
    if kind.startswith(MONEY_BACK):
        return _pointer(about)
    # Of an upcoming invoice Stripe gives a preview, which has no id.
    if not kind.startswith("invoice.") or about.get("object") != "invoice" or about.get("id") is None:
        return {}
    metadata = about.get("metadata") or {}
    return {
        **{name: about.get(name) for name in _KEPT},
        "metadata": {name: metadata[name] for name in _KEPT_METADATA if name in metadata},
    }


def _pointer(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what leads from a charge, a refund, a dispute or a credit note to its invoice."""
    kind = about.get("object")
    if kind == "credit_note":
        return {"look_at": kind, "id": _id(about.get("invoice"))}
    charge = about if kind == "charge" else {"id": _id(about.get("charge"))}
    return {
        "look_at": kind,
        "charge": charge.get("id"),
        "payment_intent": _id(about.get("payment_intent")),
        "customer": _id(about.get("customer")),
    }


def _id(value: Any) -> str | None:
    """Return the id of an object that may be expanded."""
    found = value.get("id") if isinstance(value, Mapping) else value
    return None if found is None else str(found)
