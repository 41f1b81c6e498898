"""Readings of Stripe's lists: how far each is, kept in the ledger, and how much time a tick has for them."""

import json
import time
from dataclasses import asdict
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from spell_billing.invoicing.gateway import Gateway
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
    return kind(**json.loads(cursor.value)) if cursor else None


def keep_place(connection: Connection, name: str, place: Any) -> None:
    """Keep a place, a dataclass, under a name."""
    move_cursor(connection, name, json.dumps(asdict(place)))


async def list_page(gateway: Gateway, path: str, parameters: dict[str, Any], after: str | None) -> Any | None:
    """Return a page of a list, `/v1/events`; None when the object that it follows is gone from the list.

    `after` is the last object of the page before; None for the first page.
    """
    following = {} if after is None else {"starting_after": after}
    try:
        return (await gateway.send(f"GET {path}", parameters | following)).object
    except StripeProblem as problem:
        if after is None or problem.kind not in {Kind.PERMANENT, Kind.MISSING}:
            raise
        return None
