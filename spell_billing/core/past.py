"""What became of billed months since they were billed: who lost, and who gained."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from spell_billing.core.late import Usage
from spell_billing.core.money import exact_sum

Changed = tuple[str, str, int, Decimal]
"""A billed month, a user, and how many calls and cents the user has there now beyond what was frozen."""

Differences = dict[tuple[str, str], Usage]
"""By billed month and user; below zero where usage went, and none is nothing."""


@dataclass(slots=True)
class PastAmounts:
    """What was billed in a currency, and what usage was lost and gained since, in exact minor units."""

    billed_cents: Decimal
    lost_cents: Decimal = Decimal(0)
    gained_cents: Decimal = Decimal(0)


@dataclass(slots=True)
class PastChange:
    """A billed month, its users, those of them who lost rows, and the amounts by currency."""

    month: str
    users: int
    users_lost: int = 0
    amounts: dict[str, PastAmounts] = field(default_factory=dict)


def net_differences(rows: Iterable[Changed], heir_of: Callable[[str], str]) -> Differences:
    """Sum what changed by month and user; `heir_of` names the user that someone's usage moved to."""
    sums: defaultdict[tuple[str, str], Usage] = defaultdict(Usage)
    for month, user, calls, cents in rows:
        sums[month, heir_of(user)] += Usage(calls, cents)
    return {key: each for key, each in sums.items() if each}


def sum_changes(
    differences: Differences,
    billed: Mapping[str, PastChange],
    currency_of: Mapping[tuple[str, str], str],
) -> list[PastChange]:
    """Sum losses and gains of billed months by currency, oldest month first.

    `currency_of` has the currency of a user's bill in a month, where it is not the month's largest.
    """
    for (month, user), each in differences.items():
        change = billed[month]
        if each.calls < 0:
            change.users_lost += 1
        currency = currency_of.get((month, user)) or next(iter(change.amounts), "usd")
        amounts = change.amounts.setdefault(currency, PastAmounts(Decimal(0)))
        if each.cents < 0:
            amounts.lost_cents = exact_sum(amounts.lost_cents, each.cents.copy_negate())
        else:
            amounts.gained_cents = exact_sum(amounts.gained_cents, each.cents)
    return [billed[month] for month in sorted(billed)]
