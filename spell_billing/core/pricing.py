"""Rating: what a month's usage costs under a plan."""

from decimal import Decimal

from spell_billing.core.money import round_half_up


def rate_cents(usage_cents: Decimal, included_cents: int) -> int:
    """Give what is due for one month's usage: the rounded usage less what the plan includes.

    A negative usage (refunds outweigh calls) is due in full as a credit: the allowance covers charges only.

    Args:
        usage_cents: Exact cost of the month's calls in minor units.
        included_cents: The plan's monthly allowance in minor units; 0 without a plan.

    Returns:
        Whole minor units, negative for a credit.
    """
    return round_half_up(usage_cents) - covered_cents(usage_cents, included_cents)


def covered_cents(usage_cents: Decimal, included_cents: int) -> int:
    """Give how much of the usage the plan's allowance covers, in whole minor units, never negative."""
    return min(included_cents, max(0, round_half_up(usage_cents)))
