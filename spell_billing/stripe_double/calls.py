"""One API request in execution, and the filters that lists share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.collection import DEFAULT_PAGE, Cursor


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets: the id in the path (empty when there is none) and the typed parameters."""

    object_id: str
    params: dict[str, Any]

    @property
    def cursor(self) -> Cursor:
        """The page that a list call asks for."""
        return Cursor(
            limit=self.params.get("limit", DEFAULT_PAGE),
            starting_after=self.params.get("starting_after"),
            ending_before=self.params.get("ending_before"),
        )


def locked_by(account: Account, call: Call) -> frozenset[str]:
    """Return the ids of the objects that a write locks: the one in its path, and its customer.

    A write on one of an invoice's objects runs into a write on another object of the same customer:
    https://docs.stripe.com/rate-limits#object-lock-timeouts speaks of "the same or related objects".
    """
    invoice = account.invoices.find(call.object_id or str(call.params.get("invoice", "")))
    customer = call.params.get("customer") if invoice is None else invoice.customer
    return frozenset(each for each in (call.object_id, customer) if each)


def within(bounds: Any) -> Callable[[int], bool]:
    """Build the test for a `created` filter: None, one time, or bounds by gt, gte, lt, lte."""
    if bounds is None:
        return lambda _moment: True
    if isinstance(bounds, int):
        return lambda moment: moment == bounds
    after = max(bounds.get("gte", 0), bounds.get("gt", -1) + 1)
    before = min(bounds.get("lte", _END_OF_TIME), bounds.get("lt", _END_OF_TIME + 1) - 1)
    return lambda moment: after <= moment <= before


_END_OF_TIME = 2**62


def merged_metadata(current: Any, change: Any) -> dict[str, str]:
    """Apply a metadata parameter: keys merge, an empty value unsets a key, an empty string unsets all."""
    if change == "":
        return {}
    merged = {**current, **(change or {})}
    return {key: value for key, value in merged.items() if value != ""}
