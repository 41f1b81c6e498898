"""What other prices would have changed: users' amounts before and after, and the figures that sum them up."""

from collections import defaultdict
from collections.abc import Iterable

import msgspec

MEDIAN_PERCENT, HIGH_PERCENT = 50, 95
LARGEST = 10
_ALL = 100


class UserChange(msgspec.Struct, frozen=True):
    """What a user pays before and after, in minor units of `currency`."""

    user_id: str
    currency: str
    before_cents: int
    after_cents: int

    @property
    def by_cents(self) -> int:
        """What the user pays more; negative for less."""
        return self.after_cents - self.before_cents


class Group(msgspec.Struct, frozen=True):
    """How many users there are in a group, and what they pay more (negative: less) together."""

    users: int
    by_cents: int


class Figures(msgspec.Struct, frozen=True):
    """The changes of all users in a currency, in minor units, and who would have paid more, less or the same.

    Half of the users do not exceed a change of `p50_cents`, 95 % one of `p95_cents`; below zero they
    pay less.
    """

    currency: str
    users: int
    before_cents: int
    after_cents: int
    more: Group
    less: Group
    same: Group
    p50_cents: int
    p95_cents: int

    @property
    def by_cents(self) -> int:
        """What the users pay more together; negative for less."""
        return self.after_cents - self.before_cents


def add_up(changes: Iterable[UserChange]) -> list[UserChange]:
    """Return one change for each user and currency, in the order of users, from those of several months."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for each in changes:
        before, after = sums.get((each.user_id, each.currency), (0, 0))
        sums[each.user_id, each.currency] = (before + each.before_cents, after + each.after_cents)
    return [UserChange(*key, *sums[key]) for key in sorted(sums)]


def figures_of(changes: Iterable[UserChange]) -> list[Figures]:
    """Return the figures of each currency, in their order. Each user appears once in a currency."""
    return [_figures(currency, found) for currency, found in _by_currency(changes)]


def largest(changes: Iterable[UserChange]) -> list[UserChange]:
    """Return the ten largest changes, up or down, of each currency; the largest first."""
    return [
        each
        for _, found in _by_currency(each for each in changes if each.by_cents)
        for each in sorted(found, key=lambda one: (-abs(one.by_cents), one.user_id))[:LARGEST]
    ]


def _by_currency(changes: Iterable[UserChange]) -> list[tuple[str, list[UserChange]]]:
    by_currency: defaultdict[str, list[UserChange]] = defaultdict(list)
    for each in changes:
        by_currency[each.currency].append(each)
    return sorted(by_currency.items())


def percentile(ordered: list[int], percent: int) -> int:
    """Return the smallest of at least one ordered numbers that so many percent of them do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // _ALL) - 1)]


def _figures(currency: str, changes: list[UserChange]) -> Figures:
    by = sorted(each.by_cents for each in changes)
    more, less = [cents for cents in by if cents > 0], [cents for cents in by if cents < 0]
    return Figures(
        currency=currency,
        users=len(changes),
        before_cents=sum(each.before_cents for each in changes),
        after_cents=sum(each.after_cents for each in changes),
        more=Group(len(more), sum(more)),
        less=Group(len(less), sum(less)),
        same=Group(len(by) - len(more) - len(less), 0),
        p50_cents=percentile(by, MEDIAN_PERCENT),
        p95_cents=percentile(by, HIGH_PERCENT),
    )
