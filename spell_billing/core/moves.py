"""Who became whom: usage that one user lost in billed months, and another gained."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from itertools import combinations, product

from spell_billing.core.late import Usage
from spell_billing.core.past import Differences

_MOST_LOSERS = 20
_MOST_ALIKE = 20
"""So many who lost or gained the same in a month are told apart by other months, if at all."""
_MOST_MERGED = 4

_Same = tuple[str, int, Decimal]
"""A month, and how many calls and cents were lost by some and gained by others."""

LostAll = Callable[[str, str], bool]
"""Whether, in a month, a user lost all that it billed."""


class Extent(StrEnum):
    """What the one lost and the other gained.

    WHOLE: all that a month billed, and exactly that. BEYOND: all that it billed, and more than that, as with
    late usage of one's own. PART: a part of it, and exactly that.
    """

    WHOLE = "whole"
    BEYOND = "beyond"
    PART = "part"


@dataclass(frozen=True, slots=True)
class Move:
    """A user who lost in billed months what another gained, and these months.

    `is_told` is false where others lost or gained as much, so that the pair is one of several possible.
    """

    from_user: str
    to_user: str
    months: tuple[str, ...]
    is_told: bool = True
    extent: Extent = Extent.WHOLE


def find_moves(differences: Differences, lost_all: LostAll) -> list[Move]:
    """Find all moves, the surest first; whose move is told by exact amounts is not looked up by others."""
    pairs = pair_moves(differences, lost_all)
    exact = [*pairs, *merges(without_moves(differences, pairs), lost_all)]
    told = {move.from_user for move in exact if move.is_told}
    rest = without_moves(differences, exact)
    others = [*moves_beyond(rest, lost_all), *moves_of_parts(rest, lost_all)]
    return [*exact, *(move for move in others if move.from_user not in told)]


def without_moves(differences: Differences, moves: Iterable[Move]) -> Differences:
    """Leave out what whole moves explain; others may be a chance, and stay changes of the past."""
    explained = {
        (month, user)
        for move in moves
        if move.extent is Extent.WHOLE
        for month in move.months
        for user in (move.from_user, move.to_user)
    }
    return {key: each for key, each in differences.items() if key not in explained}


def pair_moves(differences: Differences, lost_all: LostAll) -> list[Move]:
    """Pair users who lost all that a month billed with those who gained exactly that, each once a month."""
    groups = _alike(differences, lost_all)
    months: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for key, pair in _tell(groups):
        months[pair].append(key[0])
    told = set(months)
    for key, (losers, winners) in groups.items():
        for pair in zip(sorted(losers), sorted(winners), strict=False):
            months[pair].append(key[0])
    return _as_moves(months, told)


def _alike(differences: Differences, counts: LostAll) -> dict[_Same, tuple[set[str], set[str]]]:
    """Group those who lost, as far as they count, with those who gained the same in the month."""
    gained: defaultdict[_Same, set[str]] = defaultdict(set)
    for (month, user), each in differences.items():
        if each.calls > 0:
            gained[month, each.calls, each.cents].add(user)
    lost: defaultdict[_Same, set[str]] = defaultdict(set)
    for (month, user), each in differences.items():
        key = month, -each.calls, -each.cents
        if each.calls < 0 and key in gained and counts(month, user):
            lost[key].add(user)
    return {key: (users, gained[key]) for key, users in lost.items()}


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


def merges(differences: Differences, lost_all: LostAll) -> list[Move]:
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


def _groups(differences: Differences, lost_all: LostAll) -> Mapping[_Same, list[tuple[str, ...]]]:
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


def moves_beyond(differences: Differences, lost_all: LostAll) -> list[Move]:
    """Find users who lost all that a month billed while another gained at least that.

    Told is who has only one such other, who gained as much as all of these together lost.
    """
    lost: defaultdict[str, list[tuple[Usage, str]]] = defaultdict(list)
    gained: defaultdict[str, list[tuple[Usage, str]]] = defaultdict(list)
    for (month, user), each in sorted(differences.items()):
        if each.calls > 0 and each.cents > 0:
            gained[month].append((each, user))
        elif each.calls < 0 and each.cents < 0 and lost_all(month, user):
            lost[month].append((Usage() - each, user))
    months: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    guesses: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for month in lost.keys() & gained.keys():
        only_of: defaultdict[str, list[tuple[Usage, str]]] = defaultdict(list)
        for loss, user, winners in _who_gained_as_much(lost[month], gained[month]):
            if len(winners) == 1:
                only_of[winners[0]].append((loss, user))
            else:
                guesses[user, winners[0]].append(month)
        for winner, losses in only_of.items():
            all_lost = sum((loss for loss, _ in losses), Usage())
            found = months if _covers(differences[month, winner], all_lost) else guesses
            for _, user in losses:
                found[user, winner].append(month)
    told = set(months)
    sure = {user for user, _ in told}
    months |= {pair: found for pair, found in guesses.items() if pair[0] not in sure}
    return _as_moves(months, told, Extent.BEYOND)


def _who_gained_as_much(
    lost: Iterable[tuple[Usage, str]], gained: Iterable[tuple[Usage, str]]
) -> Iterator[tuple[Usage, str, list[str]]]:
    """Go through those who lost, with up to two who gained at least as much; who has none is left out."""
    waiting = sorted(gained, key=lambda each: each[0].cents)
    most: list[tuple[Usage, str]] = []
    for loss, user in sorted(lost, key=lambda each: each[0].cents, reverse=True):
        while waiting and waiting[-1][0].cents >= loss.cents:
            most = heapq.nlargest(2, [*most, waiting.pop()], key=lambda each: each[0].calls)
        if winners := [winner for gain, winner in most if gain.calls >= loss.calls]:
            yield loss, user, winners


def _covers(gain: Usage, loss: Usage) -> bool:
    return gain.calls >= loss.calls and gain.cents >= loss.cents


def moves_of_parts(differences: Differences, lost_all: LostAll) -> list[Move]:
    """Find users who lost a part of what a month billed, where exactly one gained exactly what one lost.

    Where several lost or gained the same, it is more likely that calls just cost the same.
    """
    months: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    groups = _alike(differences, lambda month, user: not lost_all(month, user))
    for (month, _, cents), (losers, winners) in groups.items():
        if cents > 0 and len(losers) == len(winners) == 1:
            months[min(losers), min(winners)].append(month)
    return _as_moves(months, set(months), Extent.PART)


def _as_moves(
    months: Mapping[tuple[str, str], Collection[str]],
    told: Collection[tuple[str, str]],
    extent: Extent = Extent.WHOLE,
) -> list[Move]:
    return [
        Move(*pair, months=tuple(sorted(found)), is_told=pair in told, extent=extent)
        for pair, found in sorted(months.items())
    ]
