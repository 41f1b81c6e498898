"""What became of billed months since they were billed: who lost, who gained, and who only moved."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import combinations

from spell_billing.core.late import Usage
from spell_billing.core.money import exact_sum

_MOST_LOSERS = 20
_MOST_MERGED = 4

Changed = tuple[str, str, int, Decimal]
"""A billed month, a user, and how many calls and cents the user has there now beyond what was frozen."""


Differences = dict[tuple[str, str], Usage]
"""By billed month and user; below zero where usage went, and none is nothing."""


@dataclass(frozen=True, slots=True)
class Move:
    """A user who lost in billed months exactly what another gained, and these months."""

    from_user: str
    to_user: str
    months: tuple[str, ...]


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


def pair_moves(differences: Differences, lost_all: Callable[[str, str], bool]) -> list[Move]:
    """Pair users who lost all that a month billed with those who gained exactly that, each once a month.

    Where several could be meant, a pair that other months show as well comes first.
    """
    gained: defaultdict[tuple[str, int, Decimal], list[str]] = defaultdict(list)
    for (month, user), each in sorted(differences.items()):
        if each.calls > 0:
            gained[month, each.calls, each.cents].append(user)
    candidates = {
        (month, user): gained[key]
        for (month, user), each in sorted(differences.items())
        if each.calls < 0 and (key := (month, -each.calls, -each.cents)) in gained and lost_all(month, user)
    }
    shown = Counter((loser, winner) for (_, loser), winners in candidates.items() for winner in winners)
    taken: set[tuple[str, str]] = set()
    months: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for (month, loser), winners in candidates.items():
        free = [winner for winner in winners if (month, winner) not in taken]
        if free:
            winner = min(free, key=lambda name: (-shown[loser, name], name))
            taken.add((month, winner))
            months[loser, winner].append(month)
    return _as_moves(months)


def merges(differences: Differences, lost_all: Callable[[str, str], bool]) -> list[Move]:
    """Find users who gained in a month exactly what two to four others lost together: users who became one.

    Looked for where few users lost usage, and all that a month billed them: many who did are a change of the
    past, whatever adds up among them.
    """
    losers: defaultdict[str, list[str]] = defaultdict(list)
    for (month, user), each in sorted(differences.items()):
        if each.calls < 0 and lost_all(month, user):
            losers[month].append(user)
    groups: defaultdict[tuple[str, int, Decimal], list[tuple[str, ...]]] = defaultdict(list)
    for month, users in losers.items():
        for number in range(2, _MOST_MERGED + 1) if len(users) <= _MOST_LOSERS else ():
            for group in combinations(users, number):
                lost = sum((differences[month, user] for user in group), Usage())
                groups[month, -lost.calls, -lost.cents].append(group)
    taken: set[tuple[str, str]] = set()
    months: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for (month, winner), gain in sorted(differences.items()):
        for group in groups.get((month, gain.calls, gain.cents), ()):
            if taken.isdisjoint((month, user) for user in group):
                for user in group:
                    taken.add((month, user))
                    months[user, winner].append(month)
                break
    return _as_moves(months)


def _as_moves(months: Mapping[tuple[str, str], Collection[str]]) -> list[Move]:
    return [Move(loser, winner, tuple(found)) for (loser, winner), found in sorted(months.items())]


def without_moves(differences: Differences, moves: Iterable[Move]) -> Differences:
    """Leave out what moves explain."""
    explained = {
        (month, user) for move in moves for month in move.months for user in (move.from_user, move.to_user)
    }
    return {key: each for key, each in differences.items() if key not in explained}


def sum_changes(
    differences: Differences,
    billed: Mapping[str, PastChange],
    currency_of: Mapping[tuple[str, str], str],
) -> list[PastChange]:
    """Sum losses and gains of billed months by currency, oldest month first.

    `currency_of` has the currency of a user's bill in a month, where it is not the month's largest.
    """
    for (month, user), each in differences.items():
        change = billed.get(month)
        if change is None:
            continue
        if each.calls < 0:
            change.users_lost += 1
        currency = currency_of.get((month, user)) or next(iter(change.amounts), "usd")
        amounts = change.amounts.setdefault(currency, PastAmounts(Decimal(0)))
        if each.cents < 0:
            amounts.lost_cents = exact_sum(amounts.lost_cents, each.cents.copy_negate())
        else:
            amounts.gained_cents = exact_sum(amounts.gained_cents, each.cents)
    return [billed[month] for month in sorted(billed)]
