"""What users have so far in a month with rate cards, at the prices that will be billed."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from spell_billing.core.money import exact_sum
from spell_billing.usage.frozen import Totals
from spell_billing.usage.rate_cards import Counts, RateCards


@dataclass(frozen=True, slots=True)
class ItemSoFar:
    """What a user has of an item: counted, and at its stored cost."""

    user_id: str
    item: str
    counts: Counts
    stored_cents: Decimal


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
