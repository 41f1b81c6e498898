"""One API request in execution, and the filters that lists share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
