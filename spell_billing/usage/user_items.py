"""What each user has of each item, read in step with the users."""

from collections.abc import Callable, Collection, Iterator, Sequence
from decimal import Decimal
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.items import ItemUsage
from spell_billing.usage.frozen import USER_ITEMS_FILE, FrozenUsage
from spell_billing.usage.tables import texts
from spell_billing.usage.user_usage import open_user_usage

_COLUMNS = ("user_id", "item", "calls", "cost_cents")

ItemsOf = Callable[[str], Sequence[ItemUsage]]
"""Gives a user's items; users are asked for in rising order, each once."""


def items_in_step(frozen: FrozenUsage, only: Collection[str] | None = None) -> ItemsOf:
    """Return the way to each user's items of an aggregated version: none where no items were frozen.

    Args:
        frozen: The version.
        only: Users that are asked for; None for all.

    Raises:
        UsageError: when asked, where the version was not aggregated.
        IntegrityError: likewise, where what was aggregated was altered.
    """
    if frozen.manifest.items_by is None:
        return lambda _: ()
    groups = groupby(_rows(frozen, only), key=lambda row: row[0])
    waiting: list[tuple[str, list[ItemUsage]]] = []

    def items_of(user_id: str) -> Sequence[ItemUsage]:
        while not waiting or waiting[0][0] < user_id:
            waiting.clear()
            found = next(groups, None)
            if found is None:
                return ()
            user, rows = found
            waiting.append((user, [ItemUsage(item, calls, Decimal(cost)) for _, item, calls, cost in rows]))
        return waiting[0][1] if waiting[0][0] == user_id else ()

    return items_of


def _rows(frozen: FrozenUsage, only: Collection[str] | None) -> Iterator[tuple[str, str, int, str]]:
    with open_user_usage(frozen, USER_ITEMS_FILE) as file:
        for batch in file.iter_batches(columns=list(_COLUMNS)):
            kept = batch
            if only is not None:
                kept = batch.filter(pc.is_in(batch["user_id"], value_set=texts(sorted(only))))
            # As text: Python reads it in a fifth of the time of Arrow's decimals.
            cost = kept["cost_cents"].cast(pa.string()).to_pylist()
            yield from zip(*(kept[name].to_pylist() for name in _COLUMNS[:-1]), cost, strict=True)
