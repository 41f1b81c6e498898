"""A collection of objects in the order of their creation, listed as Stripe lists them."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from spell_billing.stripe_double.errors import ApiError, missing

_DEFAULT_PAGE = 10
_END_OF_TIME = 2**62


class HasId(Protocol):
    """Anything with Stripe's id."""

    @property
    def id(self) -> str:
        """The id, unique in the account."""
        ...


Item = TypeVar("Item", bound=HasId)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list: what Stripe calls a list object."""

    url: str
    data: tuple[Any, ...]
    has_more: bool


class Collection(Generic[Item]):
    """Objects of one kind by id, oldest first, with an index by customer."""

    def __init__(self, kind: str, url: str) -> None:
        self._kind = kind
        self._url = url
        self._items: dict[str, Item] = {}
        self._position: dict[str, int] = {}
        self._orders: defaultdict[str | None, list[str]] = defaultdict(list)
        """The ids of each customer's objects, and under None of all, oldest first; removed ones stay."""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(list(self._items.values()))

    def put(self, item: Item) -> Item:
        """Append an object; one that exists takes its new state and keeps its place."""
        if item.id not in self._items:
            self._position[item.id] = len(self._orders[None])
            for customer in {None, getattr(item, "customer", None)}:
                self._orders[customer].append(item.id)
        self._items[item.id] = item
        return item

    def remove(self, item_id: str) -> None:
        """Forget an object; it is no cursor any more."""
        del self._items[item_id]

    def find(self, item_id: str) -> Item | None:
        """Return an object, or None."""
        return self._items.get(item_id)

    def get(self, item_id: str, *, param: str | None = None) -> Item:
        """Return an object.

        Raises:
            ApiError: `resource_missing`: 404, or 400 when a parameter named the object.
        """
        item = self._items.get(item_id)
        if item is None:
            raise missing(self._kind, item_id, param=param)
        return item

    def of_customer(self, customer: str) -> list[Item]:
        """Return the objects of one customer, oldest first."""
        return [self._items[each] for each in self._orders.get(customer, ()) if each in self._items]

    def page(
        self,
        params: Mapping[str, Any],
        keep: Callable[[Item], bool] | None = None,
        *,
        same: tuple[str, ...] = (),
    ) -> Page:
        """List newest first, as Stripe does.

        Args:
            params: The request's: `limit`, a cursor, and filters: `customer`, `created`, those of `same`.
            keep: A further filter.
            same: Parameters that select objects whose attribute of that name has that value.

        Raises:
            ApiError: when the cursor names an object that does not exist, or there are two.
        """
        created = within(params.get("created"))
        wanted = {name: params[name] for name in same if name in params}

        def is_listed(item: Any) -> bool:
            return (
                ("created" not in params or created(item.created))
                and all(getattr(item, name) == value for name, value in wanted.items())
                and (keep is None or keep(item))
            )

        after, before = params.get("starting_after"), params.get("ending_before")
        if after is not None and before is not None:
            raise ApiError("Received both starting_after and ending_before; pass only one.")
        order = self._orders.get(params.get("customer"), [])
        if before is None:
            end = len(order) if after is None else self._index(order, after, "starting_after")
            indexes = range(end - 1, -1, -1)
        else:
            indexes = range(self._index(order, before, "ending_before") + 1, len(order))
        items = (self._items.get(order[index]) for index in indexes)
        limit: int = params.get("limit", _DEFAULT_PAGE)
        found = list(islice((each for each in items if each is not None and is_listed(each)), limit + 1))
        data = found[:limit] if before is None else found[:limit][::-1]
        return Page(self._url, tuple(data), len(found) > limit)

    def _index(self, order: list[str], item_id: str, param: str) -> int:
        self.get(item_id, param=param)
        index = bisect_left(order, self._position[item_id], key=self._position.__getitem__)
        if index == len(order) or order[index] != item_id:
            raise missing(self._kind, item_id, param=param)
        return index


def within(bounds: Any) -> Callable[[int], bool]:
    """Build the test for a filter by time: None, one time, or bounds by gt, gte, lt, lte."""
    if bounds is None:
        return lambda _moment: True
    if isinstance(bounds, int):
        return lambda moment: moment == bounds
    after = max(bounds.get("gte", 0), bounds.get("gt", -1) + 1)
    before = min(bounds.get("lte", _END_OF_TIME), bounds.get("lt", _END_OF_TIME + 1) - 1)
    return lambda moment: after <= moment <= before
