"""Late usage: what is known of a month's usage by now, against what bills hold of it. Pure."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from enum import Enum, auto

import msgspec

from spell_billing.core.lines import ADJUSTMENT, BROUGHT, FEES, LATE_USAGE, MOVED, UNBILLED, Line
from spell_billing.core.money import EXACT, exact_sum
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.pricing import USUAL_RATING, Coupon, Rating, due_cents, rate_cents

BillOf = tuple[str, str]
"""A bill by user and month."""

LATE_USAGE_MONTHS = 12
"""How far back late usage is looked for."""


class Worth(Enum):
    """What the amounts of a bill are worth for usage that comes later.

    What was charged may be given back; what was written off is neither charged nor due; an open bill may
    still be sent, and takes up by itself what came since.
    """

    CHARGED = auto()
    WRITTEN_OFF = auto()
    OPEN = auto()


def worth(state: str, reason: str | None) -> Worth:
    """Return what a bill in a state is worth; of all generations, the latest counts."""
    closed = state in {State.VOID, State.SETTLED}
    if state == State.UNCOLLECTIBLE or (closed and reason == Reason.WRITTEN_OFF):
        return Worth.WRITTEN_OFF
    if state in {State.FINALIZED, State.PAID, State.PAYMENT_FAILED, State.SKIPPED, State.SETTLED}:
        return Worth.CHARGED
    return Worth.OPEN


class Usage(msgspec.Struct, frozen=True):
    """Calls and their exact cost; either may be negative."""

    calls: int = 0
    cents: Decimal = Decimal(0)

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.calls + other.calls, exact_sum(self.cents, other.cents))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.calls - other.calls, EXACT.subtract(self.cents, other.cents))

    def __bool__(self) -> bool:
        return bool(self.calls or self.cents)


class Held(msgspec.Struct):
    """What bills charge a user for a month's usage, or for its fees, in minor units.

    `charged_cents` still stands; `forgiven_cents` are charges that were written off, `withheld_cents` credits
    on such bills, above zero. Of `peak_cents`, the most that was charged at a time, coupons at Stripe took
    `coupon_cents` off.

    `back` was given back of invoices that charged it, by month; nobody said yet what for. `corrected_cents`
    of it were for what went, as a person said, and no part of what is charged any more.
    """

    charged_cents: int = 0
    forgiven_cents: int = 0
    withheld_cents: int = 0
    peak_cents: int = 0
    coupon_cents: int = 0
    corrected_cents: int = 0
    back: dict[str, int] = {}

    @property
    def coupon(self) -> Coupon:
        """What coupons took off."""
        return Coupon(self.coupon_cents, self.peak_cents, self.corrected_cents)

    def gone_beyond(self, cents: int) -> int:
        """Return what was charged beyond an amount, given back or not; less what is corrected."""
        return max(0, self.peak_cents - self.corrected_cents - cents)


class Billed(Held):
    """What the ledger has of one user's usage of a month, on all bills but the one that is drafted.

    `known` is what was frozen with the month and every difference recorded since; bills hold the part
    `billed`, and other users' usage makes up for the part `moved`. `fee_discount_cents`, above zero, is what
    discounts took off a fee that was written off, and `lowest_cents` the least that may stand in all: what
    was known at a time came to that, at most zero. `rating` is None where the user had no account then; the
    currency is the first bill's. The month's own bill `is_open`, or the usage `waits` on an open bill of
    another month, which holds `waiting`; so does the bill of the month it `waits_for`, of which nothing was
    sent yet.
    """

    known: Usage = Usage()
    billed: Usage = Usage()
    moved: Usage = Usage()
    fee_discount_cents: int = 0
    lowest_cents: int = 0
    rating: Rating | None = None
    currency: str | None = None
    is_open: bool = False
    waits: bool = False
    waiting: Usage = Usage()
    waits_for: str | None = None

    @property
    def left(self) -> Usage:
        """What is known, and on no bill."""
        return self.known - self.moved - self.billed

    @property
    def gone_cents(self) -> int:
        """What was charged for rows that went, given back by late lines or not; less what is corrected."""
        return self.gone_beyond(self._rated(self.billed + self.waiting))

    @property
    def is_off(self) -> bool:
        """Whether bills charge something else than what is due, because they became worth something else."""
        return self.due_cents(self._rated(self.billed)) != 0

    def due_cents(self, rated_cents: int, more_cents: int = 0) -> int:
        """Return what is still due, or to be given back where negative, for usage that is rated at this.

        `more_cents` is charged beside what other bills charge.
        """
        return due_cents(
            self._target_cents(rated_cents),
            self.charged_cents + more_cents,
            self.forgiven_cents,
            self.withheld_cents,
            self.lowest_cents,
        )

    def _target_cents(self, rated_cents: int) -> int:
        return self.coupon.on(rated_cents + self.fee_discount_cents)

    def give_up(self, cents: int) -> None:
        """Write off a charge, above zero, of usage that is counted as billed already.

        Where it charged what a bill given up had given back, that is given up as well. With all that was
        given up before, such a charge comes to more than the usage costs: a bill that was given up only
        afterwards still counted as charged, and its usage was charged once.
        """
        self.forgiven_cents += cents
        in_all_cents = self.charged_cents + self.forgiven_cents - self.withheld_cents
        if in_all_cents > self._target_cents(self._rated(self.billed)):
            self.lowest_cents -= max(0, min(cents, self.lowest_cents - self.charged_cents))

    def note_lowest(self) -> None:
        """Note what is known by now, where it comes to less than ever before."""
        known_cents = self._rated(self.known - self.moved) + self.fee_discount_cents
        self.lowest_cents = min(self.lowest_cents, known_cents)

    def _rated(self, usage: Usage) -> int:
        return rate_cents(usage.cents, self.rating or USUAL_RATING)


class LateUsage(msgspec.Struct, frozen=True):
    """Usage of an earlier month that its invoice does not hold, or of the month itself that came too late.

    Attributes:
        usage_month: The month of the usage.
        usage: The difference; negative where rows vanished.
        billed: What other bills hold of that month's usage.
        kind: LATE_USAGE for rows that came or went after the freeze, ADJUSTMENT for what earlier bills left
            out. UNBILLED and MOVED charge nothing, and no invoice shows them.
    """

    usage_month: Month
    usage: Usage
    billed: Billed
    kind: str = LATE_USAGE


def coupon_shares(
    discount_cents: int | None, value: Worth, amounts: Mapping[str, int], lines: Sequence[Line]
) -> dict[str, int]:
    """Return what a bill's coupon took off each month's usage: it is taken off all that is charged alike.

    What was brought forward is charged too, and stands for no month.
    """
    if not discount_cents or value is not Worth.CHARGED:
        return {}
    left = dict(amounts)
    for line in lines:
        if line.without_coupon:
            left[line.usage_month] -= line.amount_cents
    charged = {of: cents for of, cents in left.items() if cents > 0}
    beside = FEES | {BROUGHT}
    beside_cents = sum(line.amount_cents for line in lines if line.kind in beside and line.amount_cents > 0)
    of_all_cents = beside_cents + sum(charged.values())
    return {of: discount_cents * cents // of_all_cents for of, cents in charged.items()}


NOTHING = Usage()


def late_usage(
    new: Mapping[BillOf, Usage],
    billed: Mapping[BillOf, Billed],
    *,
    heir_of: Callable[[str], str] = lambda user_id: user_id,
    only: Collection[str] | None = None,
) -> dict[str, list[LateUsage]]:
    """Return what belongs on the drafts of a month because other bills do not hold it, by user.

    `new` are differences that were recorded with the month, `billed` what the ledger has of these and of all
    that may be left open, `only` the users that are drafted. Usage moved to a user's heir in the end.
    """
    late: defaultdict[str, list[LateUsage]] = defaultdict(list)
    groups: defaultdict[BillOf, dict[str, Billed]] = defaultdict(dict)
    for user_id, month in sorted(new.keys() | billed.keys()):
        groups[heir_of(user_id), month][user_id] = billed.get((user_id, month)) or Billed()
    for (_, month), members in groups.items():
        waits = any(each.waits and not each.is_open for each in members.values())
        fresh = {user: new.get((user, month), NOTHING) for user in members if only is None or user in only}
        moves = {} if waits or len(members) == 1 else _moves(members, fresh)
        for user, usage in fresh.items():
            each = members[user]
            if waits or each.is_open:
                if usage:
                    late[user].append(LateUsage(Month.parse(month), usage, each, UNBILLED))
            else:
                items = list(_items(month, usage, each, moves.get(user, Decimal(0))))
                if not items and each.is_off:
                    # What a bill gave back that was corrected, or never paid after all, is charged.
                    items.append(LateUsage(Month.parse(month), NOTHING, each, ADJUSTMENT))
                late[user].extend(items)
    return late


def _items(month: str, fresh: Usage, billed: Billed, moved_cents: Decimal) -> Iterator[LateUsage]:
    left = billed.left
    fresh_moved = _part(fresh, moved_cents)
    left_moved = _part(left, EXACT.subtract(moved_cents, fresh_moved.cents))
    for kind, usage in (
        (ADJUSTMENT, left - left_moved),
        (LATE_USAGE, fresh - fresh_moved),
        (MOVED, fresh_moved + left_moved),
        # A moved line tells of new differences; what was known before must not be told twice.
        (UNBILLED, NOTHING - left_moved),
    ):
        if usage:
            yield LateUsage(Month.parse(month), usage, billed, kind)


def _part(usage: Usage, cents: Decimal) -> Usage:
    """Take up to this amount out of the usage, on the same side of zero."""
    if not cents or not usage.cents or (usage.cents > 0) != (cents > 0):
        return NOTHING
    return usage if cents.copy_abs() >= usage.cents.copy_abs() else Usage(0, cents)


def _moves(members: Mapping[str, Billed], fresh: Mapping[str, Usage]) -> dict[str, Decimal]:
    """Net what users lost against what others gained, where usage moved between them."""
    moved_cents = exact_sum(*(each.moved.cents for each in members.values()))
    gaps = {
        user: (members[user].left + usage).cents for user, usage in fresh.items() if not members[user].is_open
    }
    gained = exact_sum(*(cents for cents in gaps.values() if cents > 0))
    lost = exact_sum(*(cents.copy_negate() for cents in gaps.values() if cents < 0))
    # What was moved already may have its counterpart here: a bill that was voided, and is drafted again.
    into = max(Decimal(0), min(gained, EXACT.subtract(lost, moved_cents)))
    out = max(Decimal(0), min(lost, exact_sum(gained, moved_cents)))
    moves: dict[str, Decimal] = {}
    for user, cents in gaps.items():
        taken = min(cents.copy_abs(), into if cents > 0 else out)
        if cents > 0:
            moves[user], into = taken, EXACT.subtract(into, taken)
        else:
            moves[user], out = taken.copy_negate(), EXACT.subtract(out, taken)
    return moves
