"""What becomes of a total that is too small for an invoice of its own. Pure."""

from collections import Counter

from spell_billing.core.lines import BESIDE_USAGE, BROUGHT, CREDIT, FORGIVEN, REMAINDER, Line
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason
from spell_billing.core.terms import CARRY, Policy


def take_small_amount_off(
    lines: list[Line], month: Month, currency: str, policy: Policy
) -> tuple[Reason, int, int]:
    """Take a total below the minimum off the lines: left for the next invoice, or forgiven.

    A remainder of earlier invoices is never forgiven: it goes on waiting. What is forgiven is taken off the
    month's own usage first, then off late usage, a line for each month: later usage must know of it.

    Return the reason for no invoice, what is left for the next one, and the credit that is still applied.
    """
    carries = policy.small_amounts == CARRY
    gone = {REMAINDER} if carries else {REMAINDER, BROUGHT}
    lines[:] = [line for line in lines if line.kind not in gone]
    small_cents = sum(line.amount_cents for line in lines)
    if carries:
        reason, left_cents = Reason.SMALL_CARRIED, small_cents
        minimum = format_money(policy.minimum_cents, currency)
        text = f"Left for the next invoice, below the minimum of {minimum}"
        lines.append(_off(REMAINDER, text, small_cents, str(month), currency))
    else:
        reason, left_cents = Reason.SMALL_FORGIVEN, 0
        lines.extend(_forgiven(lines, month, small_cents, currency))
    applied_cents = -sum(line.amount_cents for line in lines if line.kind in {CREDIT, BROUGHT})
    return reason, left_cents, applied_cents


def _forgiven(lines: list[Line], month: Month, small_cents: int, currency: str) -> list[Line]:
    charged: Counter[str] = Counter()
    for line in lines:
        if line.kind not in BESIDE_USAGE | {CREDIT}:
            charged[line.usage_month] += line.amount_cents
    found = []
    for usage_month in sorted(charged, key=lambda each: (each != str(month), each)):
        cents = min(small_cents, max(0, charged[usage_month]))
        if cents:
            text = f"Too small to be charged - {Month.parse(usage_month).label}"
            found.append(_off(FORGIVEN, text, cents, usage_month, currency))
            small_cents -= cents
    return found


def _off(kind: str, text: str, cents: int, usage_month: str, currency: str) -> Line:
    return Line(kind, f"{text} ({format_money(cents, currency)})", -cents, usage_month)
