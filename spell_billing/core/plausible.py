"""Whether one user's bill is plausible beside what the user was charged before; else it is held."""

from dataclasses import dataclass
from decimal import Decimal

from spell_billing.core.money import format_money, round_half_up


@dataclass(frozen=True, slots=True)
class HoldRules:
    """A bill is held above `over_cents`, or above both `multiple` times the user's mean and `floor_cents`."""

    over_cents: int | None = None
    multiple: int = 10
    floor_cents: int = 50_000

    @property
    def never_below(self) -> int:
        """A bill of at most so many minor units is never held."""
        return self.floor_cents if self.over_cents is None else min(self.floor_cents, self.over_cents)


USUAL_RULES = HoldRules()


@dataclass(frozen=True, slots=True)
class Usual:
    """What a user was charged in a currency in the last billed months, and in how many of them."""

    total_cents: int
    months: int


def why_not_plausible(total_cents: int, currency: str, usual: Usual | None, rules: HoldRules) -> str | None:
    """Return why a bill is to be held; None when it is plausible, or nothing is known to compare it with."""
    money = format_money(total_cents, currency, grouping=True)
    if rules.over_cents is not None and total_cents > rules.over_cents:
        return f"{money} is above HOLD_OVER_CENTS, {rules.over_cents:,}"
    if usual is None or not usual.months or total_cents <= rules.floor_cents:
        return None
    if total_cents * usual.months <= rules.multiple * usual.total_cents:
        return None
    mean = format_money(round_half_up(Decimal(usual.total_cents) / usual.months), currency, grouping=True)
    return f"{money} is more than {rules.multiple:,} times the usual {mean}"
