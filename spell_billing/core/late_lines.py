"""The lines of a bill for late usage, and what they charge or give back."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from spell_billing.core.late import LateUsage
from spell_billing.core.lines import LATE_KINDS, LATE_USAGE, LEDGER_ONLY, MOVED, Line
from spell_billing.core.money import exact_sum, format_money, plain
from spell_billing.core.month import Month
from spell_billing.core.pricing import Rating, rate_cents


def add_late_lines(
    lines: list[Line],
    month: Month,
    usage_cents: Decimal,
    rating: Rating,
    *,
    late: Sequence[LateUsage],
    currency: str,
    discounts: bool,
) -> set[str]:
    """Add the lines for late usage to those of the month itself.

    Where a coupon at Stripe applies (`discounts`), what charges money that was given back is without it.

    Return the currencies of earlier bills that an amount on the new lines is due in.
    """
    if not late:
        return set()
    here_usage = {month: usage_cents}
    here_cents = {month: sum(line.amount_cents for line in lines)}
    currencies: set[str] = set()
    for item in sorted(late, key=lambda each: each.usage_month):
        of, billed = item.usage_month, item.billed
        if item.kind in LEDGER_ONLY:
            title = "Moved between users" if item.kind == MOVED else "Left for another bill"
            lines.append(_line(item, 0, title, f"{plain(item.usage.cents)} cents"))
            continue
        rated_as = rating if of == month else billed.rating or rating.of_usage_alone
        here_usage[of] = exact_sum(here_usage.get(of, Decimal(0)), item.usage.cents)
        rated_cents = rate_cents(exact_sum(billed.billed.cents, here_usage[of]), rated_as)
        amount_cents = billed.due_cents(rated_cents, here_cents.get(of, 0))
        comes_back = discounts and amount_cents > 0 and billed.gone_beyond(billed.charged_cents) > 0
        here_cents[of] = here_cents.get(of, 0) + amount_cents
        if not (amount_cents or item.usage):
            continue
        title = "Late usage" if item.kind == LATE_USAGE else "Adjustment"
        line = _line(item, amount_cents, title, format_money(amount_cents, currency))
        lines.append(msgspec.structs.replace(line, without_coupon=True) if comes_back else line)
        if amount_cents and billed.currency:
            currencies.add(billed.currency)
    return currencies


def late_sums(lines: Sequence[Line]) -> dict[str, tuple[int, Decimal]]:
    """Return what lines charge for late usage, or give back below zero, with its exact cost, by its month."""
    sums: dict[str, tuple[int, Decimal]] = {}
    for line in lines:
        if line.kind in LATE_KINDS:
            cents, usage_cents = sums.get(line.usage_month, (0, Decimal(0)))
            summed = exact_sum(usage_cents, Decimal(line.usage_cents))
            sums[line.usage_month] = cents + line.amount_cents, summed
    return sums


def may_give_back_twice(lines: Sequence[Line], late: Sequence[LateUsage]) -> bool:
    """Return whether late lines give back for a month of which money was given back at Stripe already."""
    months = {str(each.usage_month) for each in late if sum(each.billed.back.values()) > 0}
    return bool(months) and any(cents < 0 for of, (cents, _) in late_sums(lines).items() if of in months)


def _line(late: LateUsage, amount_cents: int, title: str, money: str) -> Line:
    text = f"{title} - {late.usage_month.label} ({late.usage.calls} calls, {money})"
    usage = late.usage.calls, plain(late.usage.cents)
    return Line(late.kind, text, amount_cents, str(late.usage_month), *usage)
