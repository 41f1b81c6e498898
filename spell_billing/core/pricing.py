"""Rating: what a month's usage costs under a plan, in minor units; below zero it is a credit."""

from decimal import Decimal

from spell_billing.core.money import round_half_up


def rate_cents(usage_cents: Decimal, included_cents: int) -> int:
    """Return what is due for one month's exact usage: rounded, less what the plan's allowance includes.

    A negative usage (refunds outweigh calls) is due in full as a credit: the allowance covers charges only.
    """
    return round_half_up(usage_cents) - covered_cents(usage_cents, included_cents)


def covered_cents(usage_cents: Decimal, included_cents: int) -> int:
    """Return how much of the usage the plan's allowance covers, never negative."""
    return min(included_cents, max(0, round_half_up(usage_cents)))


def due_cents(target_cents: int, charged_cents: int, forgiven_cents: int = 0, withheld_cents: int = 0) -> int:
    """Return what is still to be charged for a month's usage, or given back where negative.

    Nobody pays more for a month than its rating, and gets back only what was charged. What was written off
    counts as rated: it is neither charged again nor given back.

    `target_cents` is what the whole month's usage costs, `charged_cents` what was charged for it and still
    stands, `forgiven_cents` charges and `withheld_cents` credits, above zero, that were written off.
    """
    least, most = target_cents - forgiven_cents, target_cents + withheld_cents
    return min(max(charged_cents, least), most) - charged_cents
