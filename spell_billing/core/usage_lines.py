"""The lines of a month's own usage: as one or by item, and what the plan takes off it or adds."""

from collections.abc import Sequence
from decimal import Decimal

from spell_billing.core.items import ItemCharge
from spell_billing.core.lines import DISCOUNT, INCLUDED, MINIMUM, USAGE, USAGE_DISCOUNT, Line
from spell_billing.core.money import format_money, plain, round_half_up
from spell_billing.core.month import Month
from spell_billing.core.plans import NO_PLAN, MonthPlan
from spell_billing.core.pricing import rate

_TITLE = "Spell Platform API Usage"


def describe(month: Month, calls: int, amount_cents: int, currency: str) -> str:
    """Write the text of an invoice or a usage line, as the platform promises it to its users."""
    return f"{_TITLE} - {month.label} ({calls} calls, {format_money(amount_cents, currency)})"


def charges(month: Month, calls: int, usage_cents: Decimal, plan: MonthPlan, currency: str) -> list[Line]:
    """Return the line of a month's usage, and what the plan makes of it; amounts in minor units."""
    lines: list[Line] = []
    if calls or usage_cents:
        amount_cents = round_half_up(usage_cents)
        text = describe(month, calls, amount_cents, currency)
        lines.append(Line(USAGE, text, amount_cents, str(month), calls, plain(usage_cents)))
    if plan is NO_PLAN:
        return lines
    rated = rate(usage_cents, plan.rating)
    percents, amounts = plan.discounts
    for kind, text, cents in (
        (INCLUDED, f"Included in {plan.name}", -rated.covered_cents),
        (USAGE_DISCOUNT, f"Discount of {plan.name} on usage", -rated.usage_discount_cents),
        (MINIMUM, f"Up to the minimum of {plan.name}", rated.top_up_cents),
        (DISCOUNT, percents, -rated.discount_cents),
        (DISCOUNT, amounts, -rated.amount_off_cents),
    ):
        if cents:
            lines.append(Line(kind, f"{text} ({format_money(cents, currency)})", cents, str(month)))
    return lines


def item_lines(month: Month, charged: Sequence[ItemCharge], currency: str) -> list[Line]:
    """Return a line for each item, in place of the one of all usage."""
    title, of = f"{_TITLE} - {month.label}", str(month)
    lines = []
    for charge in charged:
        usage, cents = charge.usage, charge.amount_cents
        text = f"{title} - {usage.item} ({usage.calls} calls, {format_money(cents, currency)})"
        lines.append(Line(USAGE, text, cents, of, usage.calls, plain(usage.usage_cents)))
    return lines
