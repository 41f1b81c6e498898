"""What became of billed months since they were billed: who lost, who gained, and who only moved."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import combinations, product

from spell_billing.core.late import Usage
from spell_billing.core.money import exact_sum

_MOST_LOSERS = 20
_MOST_ALIKE = 20
"""So many who lost or gained the same in a month are told apart by other months, if at all."""
_MOST_MERGED = 4

Changed = tuple[str, str, int, Decimal]
"""A billed month, a user, and how many calls and cents the user has there now beyond what was frozen."""


_Same = tuple[str, int, Decimal]
"""A month, and how many calls and cents were lost by some and gained by others."""

Differences = dict[tuple[str, str], Usage]
"""By billed month and user; below zero where usage went, and none is nothing."""


@dataclass(frozen=True, slots=True)
class Move:
    """A user who lost in billed months exactly what another gained, and these months.

    `is_told` is false where others lost or gained the same, so that the pair is one of several possible.
    """

    from_user: str
    to_user: str
    months: tuple[str, ...]
    is_told: bool = True


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
    """Pair users who lost all that a month billed with those who gained exactly that, each once a month."""
    gained: defaultdict[_Same, set[str]] = defaultdict(set)
    for (month, user), each in differences.items():
        if each.calls > 0:
            gained[month, each.calls, each.cents].add(user)
    lost: defaultdict[_Same, set[str]] = defaultdict(set)
    for (month, user), each in differences.items():
        key = month, -each.calls, -each.cents
        if each.calls < 0 and key in gained and lost_all(month, user):
            lost[key].add(user)
    groups = {key: (users, gained[key]) for key, users in lost.items()}
    months: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for key, pair in _tell(groups):
        months[pair].append(key[0])
    told = set(months)
    for key, (losers, winners) in groups.items():
        for pair in zip(sorted(losers), sorted(winners), strict=False):
            months[pair].append(key[0])
    return _as_moves(months, told)


def _tell(groups: Mapping[_Same, tuple[set[str], set[str]]]) -> Iterator[tuple[_Same, tuple[str, str]]]:
    """Take the pairs that are certain out of groups of those who lost and those who gained the same.

    A pair is, if neither of the two is in as many groups with anybody else. The rest is looked at again then.
    """
    small = [group for group in groups.values() if max(map(len, group)) <= _MOST_ALIKE]
    groups_of: defaultdict[str, list[_Same]] = defaultdict(list)
    for key, (losers, _) in groups.items():
        for loser in losers:
            groups_of[loser].append(key)
    while best := _best(Counter(pair for group in small for pair in product(*group))):
        for loser, winner in best:
            for key in groups_of[loser]:
                losers, winners = groups[key]
                if loser in losers and winner in winners:
                    losers.remove(loser)
                    winners.remove(winner)
                    yield key, (loser, winner)


def _best(fits: Mapping[tuple[str, str], int]) -> list[tuple[str, str]]:
    """Return the pairs both of whom fit nobody else as often."""
    numbers: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for pair, number in fits.items():
        for end in enumerate(pair):
            numbers[end].append(number)
    return [
        pair
        for pair, number in fits.items()
        if all(max(numbers[end]) == number and numbers[end].count(number) == 1 for end in enumerate(pair))
    ]


def merges(differences: Differences, lost_all: Callable[[str, str], bool]) -> list[Move]:
    """Find users who gained in a month exactly what two to four others lost together: users who became one.

    Looked for where few users lost usage, and all that a month billed them: many who did are a change of the
    past, whatever adds up among them.
    """
    groups = _groups(differences, lost_all)
    gained = Counter(
        key for (month, _), gain in differences.items() if (key := (month, gain.calls, gain.cents)) in groups
    )
    uses = Counter((key[0], user) for key in gained for group in groups[key] for user in group)
    taken: set[tuple[str, str]] = set()
    months: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    told: set[tuple[str, str]] = set()
    for (month, winner), gain in sorted(differences.items()):
        key = month, gain.calls, gain.cents
        for group in groups.get(key, ()):
            if taken.isdisjoint((month, user) for user in group):
                taken.update((month, user) for user in group)
                for user in group:
                    months[user, winner].append(month)
                if gained[key] == 1 and all(uses[month, user] == 1 for user in group):
                    told.update((user, winner) for user in group)
                break
    return _as_moves(months, told)


def _groups(
    differences: Differences, lost_all: Callable[[str, str], bool]
) -> Mapping[_Same, list[tuple[str, ...]]]:
    losers: defaultdict[str, list[str]] = defaultdict(list)
    for (month, user), each in sorted(differences.items()):
        if each.calls < 0 and lost_all(month, user):
            losers[month].append(user)
    groups: defaultdict[_Same, list[tuple[str, ...]]] = defaultdict(list)
    for month, users in losers.items():
        for number in range(2, _MOST_MERGED + 1) if len(users) <= _MOST_LOSERS else ():
            for group in combinations(users, number):
                lost = sum((differences[month, user] for user in group), Usage())
                groups[month, -lost.calls, -lost.cents].append(group)
    return groups


def _as_moves(
    months: Mapping[tuple[str, str], Collection[str]], told: Collection[tuple[str, str]]
) -> list[Move]:
    return [
        Move(*pair, months=tuple(sorted(found)), is_told=pair in told)
        for pair, found in sorted(months.items())
    ]


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
