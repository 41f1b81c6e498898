"""A collection of objects in the order of their creation, with Stripe's cursors."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from spell_billing.stripe_double.errors import ApiError, missing

DEFAULT_PAGE = 10


class HasId(Protocol):
    """Anything with Stripe's id."""

    @property
    def id(self) -> str:
        """The id, unique in the account."""
        ...


Item = TypeVar("Item", bound=HasId)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page starts, and how long it is."""

    limit: int = DEFAULT_PAGE
    starting_after: str | None = None
    ending_before: str | None = None

    def __post_init__(self) -> None:
        if self.starting_after is not None and self.ending_before is not None:
            raise ApiError(400, "Received both starting_after and ending_before; pass only one.")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list: what Stripe calls a list object."""

    url: str
    data: tuple[object, ...]
    has_more: bool


class Collection(Generic[Item]):
    """Objects of one kind by id, oldest first, with an index by owner (the customer)."""

    def __init__(self, kind: str, url: str) -> None:
        self._kind = kind
        self._url = url
        self._items: dict[str, Item] = {}
        self._order: list[str] = []
        self._position: dict[str, int] = {}
        self._by_owner: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(list(self._items.values()))

    def add(self, item: Item, *, owner: str | None = None) -> Item:
        """Append a new object; one that exists takes its new state and keeps its place."""
        if item.id in self._items:
            return self.replace(item)
        self._items[item.id] = item
        self._position[item.id] = len(self._order)
        self._order.append(item.id)
        if owner is not None:
            self._by_owner.setdefault(owner, []).append(item.id)
        return item

    def replace(self, item: Item) -> Item:
        """Store the new state of an object that exists."""
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

    def owned(self, owner: str) -> list[Item]:
        """Return the objects of one customer, oldest first."""
        return [self._items[each] for each in self._by_owner.get(owner, ()) if each in self._items]

    def page(self, cursor: Cursor, *, owner: str | None, keep: Callable[[Item], bool]) -> Page:
        """List newest first, as Stripe does.

        Args:
            cursor: Where the page starts and ends.
            owner: Only this customer's objects, when given.
            keep: The other filters.

        Raises:
            ApiError: when the cursor names an object that does not exist.
        """
        order = self._order if owner is None else self._by_owner.get(owner, [])
        if cursor.ending_before is not None:
            start = self._index(order, cursor.ending_before, "ending_before", owner)
            found = self._take(range(start + 1, len(order)), order, cursor.limit, keep)
            return Page(self._url, tuple(reversed(found[: cursor.limit])), len(found) > cursor.limit)
        start = len(order)
        if cursor.starting_after is not None:
            start = self._index(order, cursor.starting_after, "starting_after", owner)
        found = self._take(range(start - 1, -1, -1), order, cursor.limit, keep)
        return Page(self._url, tuple(found[: cursor.limit]), len(found) > cursor.limit)

    def _index(self, order: list[str], item_id: str, param: str, owner: str | None) -> int:
        self.get(item_id, param=param)
        if owner is None:
            return self._position[item_id]
        if item_id not in order:
            raise missing(self._kind, item_id, param=param)
        return order.index(item_id)

    def _take(
        self, indexes: Iterable[int], order: list[str], limit: int, keep: Callable[[Item], bool]
    ) -> list[Item]:
        found: list[Item] = []
        for index in indexes:
            item = self._items.get(order[index])
            if item is not None and keep(item):
                found.append(item)
                if len(found) > limit:
                    break
        return found
