"""Readings of Stripe's lists: how far each is, kept in the ledger, and how much time a tick has for them."""

import time
from typing import Any, TypeVar

import msgspec
from sqlalchemy.engine import Connection

from spell_billing.invoicing.gateway import PAGE, Gateway
from spell_billing.ledger.cursors import move_cursor, read_cursor
from spell_billing.stripe_api.problems import Kind, StripeProblem


class Budget:
    """The seconds that a tick has left. What does not fit is for the next tick."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def in_time(self) -> bool:
        """Whether another request may begin."""
        return time.monotonic() < self._ends_at


Place = TypeVar("Place")


def read_place(connection: Connection, name: str, kind: type[Place]) -> Place | None:
    """Return the place that is kept under a name; None where there is none."""
    cursor = read_cursor(connection, name)
    return msgspec.json.decode(cursor.value, type=kind) if cursor else None


def keep_place(connection: Connection, name: str, place: Any) -> None:
    """Keep a place, a dataclass, under a name."""
    move_cursor(connection, name, msgspec.json.encode(place).decode())


async def list_page(gateway: Gateway, path: str, filters: dict[str, Any], after: str | None) -> Any | None:
    """Return a page of a list, `/v1/events`; None when the object that it follows is gone from the list.

    `after` is the last object of the page before; None for the first page.
    """
    following = {} if after is None else {"starting_after": after}
    try:
        return (await gateway.send(f"GET {path}", {"limit": PAGE, **filters, **following})).object
    except StripeProblem as problem:
        if after is None or problem.kind not in {Kind.PERMANENT, Kind.MISSING}:
            raise
        return None
