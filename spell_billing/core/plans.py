"""Plans over a month: fees by the second, pooled into the rating of the month's usage."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import msgspec

from spell_billing.core.money import share_of
from spell_billing.core.month import Month
from spell_billing.core.pricing import USUAL_RATING, Rating

_MICROSECOND = timedelta(microseconds=1)
_PERCENT = 100


class PlanSpan(msgspec.Struct, frozen=True):
    """A user's time on a plan, and what the plan says; all amounts are for a whole month, in minor units.

    It holds from `starts_at` (None: since ever) until before `ends_at` (None: for good), aware datetimes.
    """

    plan_id: str
    name: str
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    included_cents: int = 0
    fee_cents: int = 0
    minimum_cents: int = 0
    usage_discount_percent: Decimal = Decimal(0)
    currency: str | None = None


class Discount(msgspec.Struct, frozen=True):
    """A percentage, or an amount a month, that is taken off for a time; with `plan_id` while on that plan."""

    name: str
    percent: Decimal = Decimal(0)
    amount_cents: int = 0
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    plan_id: str | None = None


class Fee(msgspec.Struct, frozen=True):
    """A plan's fee for a span of a month: what it is for in words, and how much."""

    text: str
    amount_cents: int


class MonthPlan(msgspec.Struct, frozen=True):
    """What a user's plans and discounts come to in a month.

    Attributes:
        plan_id: The last plan of the month.
        name: The names of the month's plans, as its lines have them.
        rating: How the month's usage is rated.
        fees: The month's fees, one for each plan and span.
        next_fees: Those of the next month, as far as its plans are known.
        discounts: The names of the percentages, and of the amounts, that are taken off.
        currencies: Those that the amounts of the month's plans are in, where plans say so.
        next_currencies: Those of the next month's fees.
    """

    plan_id: str | None = None
    name: str = ""
    rating: Rating = USUAL_RATING
    fees: tuple[Fee, ...] = ()
    next_fees: tuple[Fee, ...] = ()
    discounts: tuple[str, str] = ("", "")
    currencies: tuple[str, ...] = ()
    next_currencies: tuple[str, ...] = ()

    @property
    def has_fees(self) -> bool:
        """Whether there is a fee of the month or the next."""
        return bool(self.fees or self.next_fees)

    @property
    def charges_alone(self) -> bool:
        """Whether something is due although nothing was used."""
        return self.has_fees or bool(self.rating.minimum_cents)


NO_PLAN = MonthPlan()


class _Stretch(msgspec.Struct, frozen=True):
    """A part of a month, in microseconds from its start, out of `whole`."""

    start: int
    end: int
    whole: int

    @property
    def share(self) -> Fraction:
        return Fraction(self.end - self.start, self.whole)

    def of(self, cents: int) -> int:
        """Return the part of an amount a month that falls on the stretch.

        The difference of two rounded sums from the month's start: however a month is cut, its parts add up.
        """
        return share_of(cents, Fraction(self.end, self.whole)) - share_of(
            cents, Fraction(self.start, self.whole)
        )

    def within(self, other: "_Stretch") -> "_Stretch | None":
        start, end = max(self.start, other.start), min(self.end, other.end)
        return _Stretch(start, end, self.whole) if start < end else None


def month_plan(month: Month, spans: Sequence[PlanSpan], discounts: Iterable[Discount] = ()) -> MonthPlan:
    """Return what a user's plans and discounts come to in a month.

    The user's spans do not overlap; the discounts are the user's own, and those of the user's plans.
    """
    following = month.next()
    cut, later = _cuts(month, spans), _cuts(following, spans)
    fees, next_fees = tuple(_fees(month, cut)), tuple(_fees(following, later))
    percents, amounts = _taken_off(month, cut, discounts)
    priced = [span for span, _ in cut if span.fee_cents or span.minimum_cents or span.included_cents]
    return MonthPlan(
        plan_id=cut[-1][0].plan_id if cut else None,
        name=" and ".join(dict.fromkeys(span.name for span, _ in cut)),
        rating=Rating(
            included_cents=sum(stretch.of(span.included_cents) for span, stretch in cut),
            usage_discount=_sum_of_shares((span.usage_discount_percent, stretch) for span, stretch in cut),
            fee_cents=sum(fee.amount_cents for fee in fees),
            minimum_cents=sum(stretch.of(span.minimum_cents) for span, stretch in cut),
            discount=_sum_of_shares((each.percent, stretch) for each, stretch in percents),
            discount_cents=sum(stretch.of(each.amount_cents) for each, stretch in amounts),
        ),
        fees=fees,
        next_fees=next_fees,
        discounts=(_names(percents), _names(amounts)),
        currencies=_currencies(priced),
        next_currencies=_currencies(span for span, _ in later if span.fee_cents),
    )


def overlapping(spans: Sequence[PlanSpan], month: Month) -> tuple[PlanSpan, PlanSpan] | None:
    """Return two spans of one user that overlap in the month or the next, if there are any."""
    for one in (month, month.next()):
        for (before, first), (after, second) in pairwise(_cuts(one, spans)):
            if second.start < first.end:
                return before, after
    return None


def _cuts(month: Month, spans: Iterable[PlanSpan]) -> list[tuple[PlanSpan, _Stretch]]:
    """Return the spans that touch a month, each with its stretch of it, in the order in which these begin."""
    cut = ((span, _cut(month, span.starts_at, span.ends_at)) for span in spans)
    return sorted(((span, found) for span, found in cut if found), key=lambda each: each[1].start)


def _fees(month: Month, cut: Iterable[tuple[PlanSpan, _Stretch]]) -> Iterator[Fee]:
    for span, stretch in cut:
        cents = stretch.of(span.fee_cents)
        if cents:
            yield Fee(f"{span.name} plan - {_in_words(month, stretch)}", cents)


def _taken_off(
    month: Month, cut: Sequence[tuple[PlanSpan, _Stretch]], discounts: Iterable[Discount]
) -> tuple[list[tuple[Discount, _Stretch]], list[tuple[Discount, _Stretch]]]:
    """Return percentages and amounts with the stretches of the month in which they count."""
    found = []
    for each in discounts:
        valid = _cut(month, each.starts_at, each.ends_at)
        if valid is None:
            continue
        if each.plan_id is None:
            found.append((each, valid))
        else:
            on_plan = (stretch.within(valid) for span, stretch in cut if span.plan_id == each.plan_id)
            found.extend((each, stretch) for stretch in on_plan if stretch)
    return [each for each in found if each[0].percent], [each for each in found if each[0].amount_cents]


def _sum_of_shares(percents: Iterable[tuple[Decimal, _Stretch]]) -> str:
    """Add up percentages by the share of the month in which they count, to everything at most."""
    shares = (Fraction(percent) / _PERCENT * stretch.share for percent, stretch in percents)
    return str(min(Fraction(1), sum(shares, Fraction(0))))


def _currencies(spans: Iterable[PlanSpan]) -> tuple[str, ...]:
    return tuple(sorted({span.currency for span in spans if span.currency}))


def _names(found: Iterable[tuple[Discount, _Stretch]]) -> str:
    return " and ".join(dict.fromkeys(each.name for each, _ in found))


def _cut(month: Month, starts_at: datetime | None, ends_at: datetime | None) -> _Stretch | None:
    start = max(month.start, starts_at or month.start)
    end = min(month.end, ends_at or month.end)
    if start >= end:
        return None
    first, last = (start - month.start) // _MICROSECOND, (end - month.start) // _MICROSECOND
    return _Stretch(first, last, (month.end - month.start) // _MICROSECOND)


def _in_words(month: Month, stretch: _Stretch) -> str:
    if stretch.end - stretch.start == stretch.whole:
        return month.label
    start, end = (month.start + mark * _MICROSECOND for mark in (stretch.start, stretch.end))
    if start.time() == end.time() == month.start.time():
        last = (end - timedelta(days=1)).day
        days = f"{start.day}" if last == start.day else f"{start.day} to {last}"
        name, year = month.label.split()
        return f"{name} {days}, {year}"
    return f"{start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S}"
