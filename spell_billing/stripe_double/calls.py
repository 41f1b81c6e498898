"""One API request in execution."""

from dataclasses import dataclass
from typing import Any

from spell_billing.stripe_double.account import Account


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets: the id in the path (empty when there is none) and the typed parameters."""

    object_id: str
    params: dict[str, Any]


def locked_by(account: Account, call: Call) -> frozenset[str]:
    """Return the ids of the objects that a write locks: the one in its path, and its customer.

    A write on one of an invoice's objects runs into a write on another object of the same customer:
    https://docs.stripe.com/rate-limits#object-lock-timeouts speaks of "the same or related objects".
    """
    invoice = account.invoices.find(call.object_id or str(call.params.get("invoice", "")))
    customer = call.params.get("customer") if invoice is None else invoice.customer
    return frozenset(each for each in (call.object_id, customer) if each)


def merged_metadata(current: Any, change: Any) -> dict[str, str]:
    """Apply a metadata parameter: keys merge, an empty value unsets a key, an empty string unsets all."""
    if change == "":
        return {}
    merged = {**current, **(change or {})}
    return {key: value for key, value in merged.items() if value != ""}
