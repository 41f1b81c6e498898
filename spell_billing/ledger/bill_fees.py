"""What one bill holds of plans' fees, by the month of the fees, and what that is worth."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spell_billing.core.fees import FeesOf
from spell_billing.core.late import Worth, worth
from spell_billing.core.lines import BESIDE_USAGE, CREDIT, FEES, FORGIVEN, Line
from spell_billing.core.outcomes import Reason, State


@dataclass(frozen=True, slots=True)
class FeesOn:
    """A bill's fees of a month, in minor units.

    `small_cents` of them were forgiven with a total too small to be charged, and a coupon at Stripe took
    `coupon_cents` off. `is_net`: the discounts on them, if there are any, are on the bill or in the amount.
    """

    cents: int
    small_cents: int
    coupon_cents: int
    value: Worth
    is_void: bool
    is_own: bool
    is_net: bool
    currency: str

    def add_to(self, held: FeesOf) -> None:
        """Add it to what bills hold of the month's fees."""
        if self.value is not Worth.WRITTEN_OFF:
            held.charged_cents += self.cents - self.small_cents
            held.peak_cents = max(held.peak_cents, held.charged_cents)
            held.coupon_cents += self.coupon_cents
            self._forgive(held, self.small_cents, is_net=self.is_net)
        elif self.cents > 0:
            self._forgive(held, self.cents, is_net=self.is_net and not self.is_own)
        elif not self.is_void:
            held.withheld_cents -= self.cents
        else:
            # Like a credit on it, what a voided invoice gave back is left for a later one.
            return
        held.currencies.add(self.currency)

    def _forgive(self, held: FeesOf, cents: int, *, is_net: bool) -> None:
        if is_net:
            held.forgiven_net_cents += cents
        else:
            held.forgiven_cents += cents


def fees_on(row: Any, lines: Sequence[Line]) -> dict[str, FeesOn]:
    """Return the bill's fees by their month."""
    fees, others, forgiven = Counter[str](), Counter[str](), Counter[str]()
    for line in lines:
        if line.kind in FEES:
            fees[line.usage_month] += line.amount_cents
        elif line.kind == FORGIVEN:
            forgiven[line.usage_month] -= line.amount_cents
        elif line.kind not in BESIDE_USAGE and line.kind != CREDIT:
            others[line.usage_month] += line.amount_cents
    state = State(row.state)
    value = worth(state, Reason(row.reason) if row.reason else None)
    # A coupon is taken off all that is charged alike.
    charged = {of: cents for of in fees | others if (cents := fees[of] + others[of]) > 0}
    coupon_cents = (row.discount_cents or 0) if value is Worth.CHARGED else 0
    in_all_cents = sum(charged.values())
    found = {}
    for of, cents in fees.items():
        small_cents = forgiven[of] - min(forgiven[of], max(0, others[of]))
        part_cents = max(0, min(cents, charged.get(of, 0)))
        found[of] = FeesOn(
            cents=cents,
            small_cents=max(0, min(small_cents, cents)),
            coupon_cents=coupon_cents * part_cents // in_all_cents if in_all_cents else 0,
            value=value,
            is_void=state is State.VOID,
            is_own=of == row.month,
            is_net=of <= row.month,
            currency=row.currency,
        )
    return found
