"""Splitting a user's usage by item, as by endpoint: exact shares, rounded so that they add up."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from math import floor
from operator import attrgetter

import msgspec

from spell_billing.core.errors import IntegrityError
from spell_billing.core.money import EXACT, exact_sum, plain, round_half_up

OTHER = "other"
"""The item of rows without one, and of all that have no line of their own."""
MOST_ITEM_LINES = 10
"""Stripe shows the first ten lines of an invoice with it; the others take another request."""
_LONGEST_NAME = 200
"""Characters. Stripe takes 5,000 in the description of a line; an invoice is to be read."""


_ITEM, _CENTS = attrgetter("item"), attrgetter("usage_cents")


class ItemUsage(msgspec.Struct, frozen=True):
    """What a user has of one item: calls, and their exact cost; either may be zero, the cost negative."""

    item: str
    calls: int
    usage_cents: Decimal


class ItemCharge(msgspec.Struct, frozen=True):
    """An item with what it charges, in whole minor units."""

    usage: ItemUsage
    amount_cents: int


def split_usage(
    user_id: str, items: Iterable[ItemUsage], *, calls: int, usage_cents: Decimal
) -> list[ItemCharge]:
    """Split a user's usage into what each item charges, the largest amount first and `OTHER` last.

    At most `MOST_ITEM_LINES` items are named, by the size of their amount; the others become one. Which order
    they come in makes no difference. What is charged adds up to the usage, rounded once.

    Raises:
        IntegrityError: the items do not add up to the user's usage.
    """
    named = _by_name(items)
    _require_equal(user_id, named, calls, usage_cents)
    kept = _largest(named)
    kept.sort(key=_ITEM)
    kept.sort(key=_CENTS, reverse=True)
    other = [each for each in kept if each.item == OTHER]
    if other:
        kept = [each for each in kept if each.item != OTHER] + other
    amounts = rounded_to_total([each.usage_cents for each in kept], round_half_up(usage_cents))
    return [ItemCharge(usage, cents) for usage, cents in zip(kept, amounts, strict=True)]


def rounded_to_total(amounts: Sequence[Decimal], total_cents: int) -> list[int]:
    """Round each amount down or up so that they add up to a total: the largest remainders go up.

    Of equal remainders, those that come first. `total_cents` is the rounded sum of the amounts.
    """
    floors = [floor(amount) for amount in amounts]
    missing = total_cents - sum(floors)
    if missing:
        rests = list(map(EXACT.subtract, amounts, floors))
        for place in sorted(range(len(rests)), key=rests.__getitem__, reverse=True)[:missing]:
            floors[place] += 1
    return floors


@lru_cache(maxsize=10_000)
def item_name(text: str) -> str:
    """Return an item as an invoice shows it: on one line, without control characters, and not too long."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    name = " ".join(printable.split()) or OTHER
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _by_name(items: Iterable[ItemUsage]) -> list[ItemUsage]:
    """Return the items by their shown names: those that look the same are one."""
    found: dict[str, ItemUsage] = {}
    for each in items:
        name = item_name(each.item)
        before = found.get(name)
        if before is not None:
            found[name] = _sum(name, [before, each])
        else:
            found[name] = each if name == each.item else msgspec.structs.replace(each, item=name)
    return list(found.values())


def _largest(items: list[ItemUsage]) -> list[ItemUsage]:
    if len(items) <= MOST_ITEM_LINES:
        return items
    named = [each for each in items if each.item != OTHER]
    named.sort(key=lambda each: (each.usage_cents.copy_abs().copy_negate(), each.item))
    kept = named[: MOST_ITEM_LINES - 1]
    rest = [*named[MOST_ITEM_LINES - 1 :], *(each for each in items if each.item == OTHER)]
    return [*kept, _sum(OTHER, rest)]


def _sum(item: str, parts: Sequence[ItemUsage]) -> ItemUsage:
    return ItemUsage(
        item, sum([each.calls for each in parts]), exact_sum(*[each.usage_cents for each in parts])
    )


def _require_equal(user_id: str, items: Sequence[ItemUsage], calls: int, usage_cents: Decimal) -> None:
    found = _sum("", items)
    if (found.calls, found.usage_cents) != (calls, usage_cents):
        raise IntegrityError(
            f"The items of user {user_id} add up to {found.calls} calls of {plain(found.usage_cents)} cents, "
            f"the usage to {calls} calls of {plain(usage_cents)} cents.",
            remedy="Nothing was drafted. Materialize user_usage of the month again.",
        )
