"""The lines of a bill's fees, less what other bills charged, gave up or gave back of them. Pure."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from spell_billing.core.late import Held
from spell_billing.core.lines import FEE, FEE_IN_ADVANCE, FEE_NOTE, Line
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.plans import Fee, MonthPlan
from spell_billing.core.pricing import Rating, discount_on, due_cents, rate

FEES_CHANGED = "Plan fees - "
"""How the descriptions of lines begin that change what other bills charged; only these give fees back."""


class FeesOf(Held):
    """What bills hold of a user's fees of one month, in minor units.

    `forgiven_cents` was written off before the discounts of its month, `forgiven_net_cents` after them.
    """

    forgiven_net_cents: int = 0
    currencies: set[str] = msgspec.field(default_factory=set)

    def forgive(self, cents: int, *, is_net: bool) -> None:
        """Write off a charge: before the discounts of its month, or `is_net`, after them."""
        if is_net:
            self.forgiven_net_cents += cents
        else:
            self.forgiven_cents += cents

    @property
    def is_given_up(self) -> bool:
        """Whether some of it was written off."""
        return bool(self.forgiven_cents or self.forgiven_net_cents)

    def due_cents(self, rating: Rating, usage_cents: Decimal, *, bill_is_given_up: bool = False) -> int:
        """Return what is to be charged for the month's fees, or given back where negative.

        The discount on a fee is on the bill of the fee's own month. Where the fee was given up before, that
        takes off what nobody pays; where that bill is given up, the fee that stands is paid without it.
        """
        fees_cents = rating.fee_cents
        given_up_cents = min(self.forgiven_cents, fees_cents)
        base_cents = fees_cents if bill_is_given_up else rate(usage_cents, rating).base_cents(fees_cents)
        on_all_cents = discount_on(base_cents, rating)
        discount_cents = on_all_cents - discount_on(base_cents - given_up_cents, rating)
        target_cents = fees_cents - on_all_cents if bill_is_given_up else fees_cents
        return due_cents(
            self.coupon.on(target_cents),
            self.charged_cents,
            given_up_cents - discount_cents + self.forgiven_net_cents,
            self.withheld_cents,
            # A correction that was given up charged what bills had given back of what nobody paid.
            -self.forgiven_net_cents,
        )


_FEES_OF = "fees of "


def fees_key(month: str) -> str:
    """Return what stands for a month's fees where usage is named by its month."""
    return f"{_FEES_OF}{month}"


def fees_month(key: str) -> str | None:
    """Return the month whose fees the key stands for; None where it is a month of usage."""
    return key.removeprefix(_FEES_OF) if key.startswith(_FEES_OF) else None


class FeeCorrection(msgspec.Struct, frozen=True):
    """Fees of an earlier month, because bills that charged them became worth something else since."""

    month: Month
    amount_cents: int
    currencies: frozenset[str]
    back_cents: int = 0


class FeesCharged(msgspec.Struct, frozen=True):
    """What bills charge a user for fees already.

    `of_month` is what other bills hold for the month that is drafted, `of_next` what they charge for the
    next one, in minor units. `kept` is what the bill charged in advance, where the next month's bills have
    counted with it: None where they have not. `earlier` is due for earlier months.
    """

    of_month: FeesOf = msgspec.field(default_factory=FeesOf)
    of_next: int = 0
    kept: int | None = None
    earlier: tuple[FeeCorrection, ...] = ()

    def may_go_back_twice(self, lines: Sequence[Line], month: Month) -> bool:
        """Return whether lines give back fees of invoices of which money was given back at Stripe already."""
        back = {str(month): sum(self.of_month.back.values())}
        back |= {str(each.month): each.back_cents for each in self.earlier}
        return any(line.kind == FEE and line.amount_cents < 0 < back[line.usage_month] for line in lines)


NOTHING_CHARGED = FeesCharged()


def fee_lines(
    month: Month,
    plan: MonthPlan,
    currency: str,
    *,
    charged: FeesCharged = NOTHING_CHARGED,
    in_advance: bool,
    usage_cents: Decimal,
) -> tuple[list[Line], set[str]]:
    """Return the lines of a bill's fees: of its month as far as they were not charged, and in advance.

    Fees in another currency than the bill's are not charged in advance, but with their own month. What was
    kept of the bill before is charged in advance whatever the setting, and the plans, say now.

    Returns:
        The lines, and the currencies of the other bills that they count with.
    """
    lines, currencies = _of_month(month, plan, currency, charged.of_month, usage_cents)
    for each in charged.earlier:
        money = format_money(each.amount_cents, currency)
        text = f"{FEES_CHANGED}{each.month.label}, corrected ({money})"
        lines.append(Line(FEE, text, each.amount_cents, str(each.month)))
        lines.append(_note(each.month, "are corrected"))
        currencies |= each.currencies
    if charged.kept is not None:
        before_cents = sum(fee.amount_cents for fee in plan.next_fees) - charged.kept
        lines += _lines_of(FEE_IN_ADVANCE, month.next(), plan.next_fees, before_cents, currency)
    elif in_advance and set(plan.next_currencies) <= {currency}:
        lines += _lines_of(FEE_IN_ADVANCE, month.next(), plan.next_fees, charged.of_next, currency)
    return lines, currencies


def _of_month(
    month: Month, plan: MonthPlan, currency: str, held: FeesOf, usage_cents: Decimal
) -> tuple[list[Line], set[str]]:
    fees_cents = plan.rating.fee_cents
    matters = bool(held.charged_cents or held.withheld_cents or (held.is_given_up and fees_cents))
    # Amounts in another currency cannot be taken off.
    counts = matters and held.currencies <= {currency}
    before_cents = fees_cents - held.due_cents(plan.rating, usage_cents) if counts else 0
    lines = _lines_of(FEE, month, plan.fees, before_cents, currency)
    if counts and held.is_given_up:
        lines.append(_note(month, "were given up before"))
    return lines, set(held.currencies) if matters else set()


def _note(month: Month, what: str) -> Line:
    return Line(FEE_NOTE, f"Fees of {month.label} {what}", 0, str(month))


def _lines_of(kind: str, month: Month, fees: Sequence[Fee], charged_cents: int, currency: str) -> list[Line]:
    if not charged_cents:
        in_advance = ", in advance" if kind == FEE_IN_ADVANCE else ""
        return [
            Line(
                kind,
                f"{fee.text}{in_advance} ({format_money(fee.amount_cents, currency)})",
                fee.amount_cents,
                str(month),
            )
            for fee in fees
        ]
    due_cents = sum(fee.amount_cents for fee in fees) - charged_cents
    if not due_cents:
        return []
    money = format_money(due_cents, currency)
    text = f"{FEES_CHANGED}{month.label}, less what was charged before ({money})"
    return [Line(kind, text, due_cents, str(month))]
