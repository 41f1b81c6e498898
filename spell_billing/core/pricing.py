"""Rating: what a month's usage costs under a plan."""

from decimal import Decimal

from spell_billing.core.money import round_half_up


def rate_cents(usage_cents: Decimal, included_cents: int) -> int:
    """Return what is due for one month's usage: the rounded usage less what the plan includes.

    A negative usage (refunds outweigh calls) is due in full as a credit: the allowance covers charges only.

    Args:
        usage_cents: Exact cost of the month's calls in minor units.
        included_cents: The plan's monthly allowance in minor units; 0 without a plan.

    Returns:
        Whole minor units, negative for a credit.
    """
    return round_half_up(usage_cents) - covered_cents(usage_cents, included_cents)


def covered_cents(usage_cents: Decimal, included_cents: int) -> int:
    """Return how much of the usage the plan's allowance covers, in whole minor units, never negative."""
    return min(included_cents, max(0, round_half_up(usage_cents)))


def due_cents(target_cents: int, charged_cents: int, forgiven_cents: int = 0, withheld_cents: int = 0) -> int:
    """Return what is still to be charged for a month's usage, or given back where negative.

    Nobody pays more for a month than its rating, and gets back only what was charged. What was written off
    counts as rated: it is neither charged again nor given back.

    Args:
        target_cents: What the whole month's usage costs.
        charged_cents: What was charged for it, and still stands.
        forgiven_cents: Charges for it that were written off.
        withheld_cents: Credits for it, above zero, on bills that were written off.

    Returns:
        Whole minor units.
    """
    least, most = target_cents - forgiven_cents, target_cents + withheld_cents
    return min(max(charged_cents, least), most) - charged_cents
