"""What users have so far in a month, at the prices that will be billed."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from spell_billing.core.money import exact_sum
from spell_billing.usage.amounts import exact
from spell_billing.usage.frozen import Totals
from spell_billing.usage.rate_cards import Counts, RateCards

_NO_CALLS = Totals(0, Decimal(0))
_NO_COUNTS = Counts(0, 0, Decimal(0))


@dataclass(frozen=True, slots=True)
class ItemSoFar:
    """What a user has of an item: counted, and at its stored cost."""

    user_id: str
    item: str
    counts: Counts
    stored_cents: Decimal


def totals_by(key: str, batches: Iterable[pa.RecordBatch]) -> dict[Any, Totals]:
    """Add up calls and cost_cents of batches by a column, which may have a value in several rows."""
    found: dict[Any, Totals] = {}
    for row in _rows(batches):
        before = found.get(row[key], _NO_CALLS)
        cost = exact_sum(before.cost_cents, exact(str(row["cost_cents"])))
        found[row[key]] = Totals(before.calls + row["calls"], cost)
    return found


def items_in(batches: Iterable[pa.RecordBatch]) -> Iterable[ItemSoFar]:
    """Add up batches of `ITEM_COLUMNS` by user and item, which may stand in several rows."""
    found: dict[tuple[str, str], ItemSoFar] = {}
    for row in _rows(batches):
        key = (row["user_id"], row["item"])
        before = found.get(key, ItemSoFar(*key, _NO_COUNTS, Decimal(0)))
        counts = Counts(
            before.counts.calls + row["calls"],
            before.counts.measured + row["measured"],
            exact_sum(before.counts.quantity, Decimal(str(row["quantity"]))),
        )
        cost = exact_sum(before.stored_cents, exact(str(row["cost_cents"])))
        found[key] = ItemSoFar(*key, counts, cost)
    return found.values()


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    return (row for batch in batches for row in batch.to_pylist())


def priced(
    cards: RateCards, plans: Mapping[str, str | None], items: Iterable[ItemSoFar]
) -> dict[str, Totals]:
    """Return the calls of each user, and what they cost by the cards.

    Args:
        cards: Of the month.
        plans: The plan that each user was on last, where a card asks for it.
        items: Of a month's users, each once.

    Raises:
        UsageError: a call lacks the quantity that is priced.
    """
    prices: dict[tuple[str | None, str, Counts], Decimal | None] = {}
    amounts, calls = defaultdict[str, list[Decimal]](list), Counter[str]()
    for each in items:
        key = (plans.get(each.user_id), each.item, each.counts)
        if key not in prices:
            found = cards.price(each.user_id, *key[:2], [each.counts])
            prices[key] = found[0] if found else None
        price = prices[key]
        amounts[each.user_id].append(each.stored_cents if price is None else price)
        calls[each.user_id] += each.counts.calls
    return {user: Totals(calls[user], exact_sum(*found)) for user, found in amounts.items()}
