"""What changes between two runs of billing: who is new, gone, charged more or less, and by which lines."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from spell_billing.core.lines import LEDGER_ONLY, Line


class Charge(msgspec.Struct, frozen=True):
    """What one user is charged in a run, in minor units: a draft of now, or a bill of the ledger."""

    user_id: str
    currency: str
    calls: int
    total_cents: int
    lines: Sequence[Line]


class Change(StrEnum):
    """How a user's charge differs from the one it is compared with."""

    NEW = "new"
    GONE = "gone"
    UP = "up"
    DOWN = "down"
    SAME = "same"


class Difference(msgspec.Struct, frozen=True):
    """One user's charge before and now; what each kind of line changed, `by_kind`, sums to `by_cents`."""

    user_id: str
    currency: str
    change: Change
    before_cents: int
    now_cents: int
    before_calls: int
    now_calls: int
    by_kind: Mapping[str, int]

    @property
    def by_cents(self) -> int:
        """What the user is charged more now; negative for less."""
        return self.now_cents - self.before_cents


def compare_charges(before: Iterable[Charge], now: Iterable[Charge]) -> list[Difference]:
    """Return each user's difference, the largest amount first; a currency that changed is gone and new.

    Each user appears once in a currency, before and now.
    """
    old = {(each.user_id, each.currency): each for each in before}
    new = {(each.user_id, each.currency): each for each in now}
    found = [_difference(*key, old.get(key), new.get(key)) for key in old.keys() | new.keys()]
    return sorted(found, key=lambda each: (-abs(each.by_cents), each.user_id, each.currency))


def kinds_of(differences: Iterable[Difference]) -> dict[tuple[str, str], int]:
    """Sum what each kind of line changed, by currency and kind."""
    sums: Counter[tuple[str, str]] = Counter()
    for each in differences:
        for kind, cents in each.by_kind.items():
            sums[each.currency, kind] += cents
    return dict(sorted(sums.items()))


def _difference(user_id: str, currency: str, before: Charge | None, now: Charge | None) -> Difference:
    nothing = Charge(user_id, currency, 0, 0, ())
    old, new = before or nothing, now or nothing
    by_kind: Counter[str] = Counter()
    for charge, sign in ((old, -1), (new, 1)):
        for line in charge.lines:
            if line.kind not in LEDGER_ONLY:
                by_kind[line.kind] += sign * line.amount_cents
    if before is None:
        change = Change.NEW
    elif now is None:
        change = Change.GONE
    elif now.total_cents == before.total_cents:
        change = Change.SAME
    else:
        change = Change.UP if now.total_cents > before.total_cents else Change.DOWN
    return Difference(
        user_id=user_id,
        currency=currency,
        change=change,
        before_cents=old.total_cents,
        now_cents=new.total_cents,
        before_calls=old.calls,
        now_calls=new.calls,
        by_kind={kind: cents for kind, cents in sorted(by_kind.items()) if cents},
    )
