"""Rating: what a month's usage costs under a plan, in minor units; below zero it is a credit."""

from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import msgspec

from spell_billing.core.errors import altered_text
from spell_billing.core.money import round_half_up, share_of


class Rating(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a user's usage of a month is rated, frozen with the bill: plans and discounts, pooled.

    Attributes:
        included_cents: The allowance: usage that costs nothing.
        usage_discount: The share of the usage beyond the allowance that is taken off, as `1/10`.
        fee_cents: The month's fees, which count towards the minimum, and which discounts are taken off too.
        minimum_cents: What fees and usage come to at least.
        discount: The share of fees and usage together that is taken off.
        discount_cents: The amount that is taken off in the end, as far as something is charged.
    """

    included_cents: int = 0
    usage_discount: str = "0"
    fee_cents: int = 0
    minimum_cents: int = 0
    discount: str = "0"
    discount_cents: int = 0

    @property
    def is_allowance_alone(self) -> bool:
        """Whether nothing but an allowance plays a part."""
        return self.minimum_cents == self.discount_cents == 0 and self.usage_discount == self.discount == "0"

    @property
    def of_usage_alone(self) -> "Rating":
        """The rating of usage in a month in which the plan charged nothing else."""
        return Rating(self.included_cents, self.usage_discount)


USUAL_RATING = Rating()


class Rated(NamedTuple):
    """What usage comes to, in minor units: each part is a line of the invoice, deductions as negatives."""

    usage_cents: int
    covered_cents: int = 0
    usage_discount_cents: int = 0
    top_up_cents: int = 0
    discount_cents: int = 0
    amount_off_cents: int = 0

    @property
    def due_cents(self) -> int:
        """What is due for the usage, beside the fees."""
        added = self.usage_cents + self.top_up_cents
        return (
            added
            - self.covered_cents
            - self.usage_discount_cents
            - self.discount_cents
            - self.amount_off_cents
        )

    def base_cents(self, fee_cents: int) -> int:
        """What discounts are taken off, with this fee."""
        return (
            fee_cents + self.usage_cents - self.covered_cents - self.usage_discount_cents + self.top_up_cents
        )


def rate(usage_cents: Decimal, rating: Rating) -> Rated:
    """Rate one month's exact usage: rounded once, less what the plan includes, discounted, up to the minimum.

    A negative usage (refunds outweigh calls) is due as a credit: the allowance covers charges only, while a
    discount counts for what is given back as it did for what was charged.
    """
    rounded = round_half_up(usage_cents)
    covered = min(rating.included_cents, max(0, rounded))
    if rating.is_allowance_alone:
        return Rated(rounded, covered)
    usage_discount = _share_of(rounded - covered, rating.usage_discount)
    net = rounded - covered - usage_discount
    top_up = max(0, rating.minimum_cents - rating.fee_cents - max(0, net))
    base = rating.fee_cents + net + top_up
    return Rated(rounded, covered, usage_discount, top_up, *_discounts(base, rating))


def _discounts(base_cents: int, rating: Rating) -> tuple[int, int]:
    discount = _share_of(base_cents, rating.discount)
    return discount, min(rating.discount_cents, max(0, base_cents - discount))


def discount_on(base_cents: int, rating: Rating) -> int:
    """Return what discounts take off fees, usage and minimum that come to this."""
    return sum(_discounts(base_cents, rating))


def rate_cents(usage_cents: Decimal, rating: Rating) -> int:
    """Return what is due for one month's exact usage, beside the fees. More usage never costs less."""
    return rate(usage_cents, rating).due_cents


def _share_of(cents: int, share: str) -> int:
    return 0 if share == "0" else share_of(cents, fraction_of(share))


@lru_cache(maxsize=1_000)
def fraction_of(text: str) -> Fraction:
    """Read a share as a rating keeps it."""
    return Fraction(text)


def due_cents(
    target_cents: int,
    charged_cents: int,
    forgiven_cents: int = 0,
    withheld_cents: int = 0,
    lowest_cents: int = 0,
) -> int:
    """Return what is still to be charged for a month's usage, or given back where negative.

    Nobody pays more for a month than its rating, and gets back only what was charged. What was written off
    counts as rated: it is neither charged again nor given back. What was given back of it before is charged:
    in all, nobody gets more for a month than its usage came to below zero at a time.

    `target_cents` is what the whole month's usage costs, `charged_cents` what was charged for it and still
    stands, `forgiven_cents` charges and `withheld_cents` credits, above zero, that were written off, and
    `lowest_cents` the least that may stand in all, at most zero.
    """
    least = max(target_cents - forgiven_cents, min(target_cents, lowest_cents))
    return min(max(charged_cents, least), target_cents + withheld_cents) - charged_cents


class Coupon(NamedTuple):
    """What coupons at Stripe took off a month: `cents` of `peak_cents`, the most that was charged at a time.

    `corrected_cents` of that were given back for usage that went, as a person said.
    """

    cents: int = 0
    peak_cents: int = 0
    corrected_cents: int = 0

    def on(self, target_cents: int) -> int:
        """Return what is due for the usage that is left, with the coupon's share of what went, not paid."""
        gone_cents = self.peak_cents - self.corrected_cents - max(0, target_cents)
        if self.cents <= 0 or gone_cents <= 0:
            return target_cents
        return target_cents + (2 * self.cents * gone_cents + self.peak_cents) // (2 * self.peak_cents)


def dump_rating(rating: Rating) -> str | None:
    """Write a rating as the ledger keeps it beside the allowance: null where there is nothing else."""
    return None if rating.is_allowance_alone and not rating.fee_cents else _dump(rating)


@lru_cache(maxsize=1_000)
def _dump(rating: Rating) -> str:
    return msgspec.json.encode(msgspec.structs.replace(rating, included_cents=0)).decode()


def load_rating(text: str | None, included_cents: int) -> Rating:
    """Read a rating as the ledger keeps it.

    Raises:
        IntegrityError: it was altered by hand, and cannot be read.
    """
    if text is None:
        return Rating(included_cents)
    try:
        return msgspec.structs.replace(_READ.decode(text), included_cents=included_cents)
    except msgspec.DecodeError as error:
        raise altered_text("rating", text, error) from None


_READ = msgspec.json.Decoder(Rating)
