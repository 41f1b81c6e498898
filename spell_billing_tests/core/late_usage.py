"""Late usage as the ledger finds it, where bills charge for the rest of its month what that costs."""

from decimal import Decimal

from spell_billing.core.late import Billed, LateUsage, Usage
from spell_billing.core.lines import LATE_USAGE
from spell_billing.core.month import Month
from spell_billing.core.pricing import USUAL_RATING, Rating, rate_cents


def late_of(  # noqa: PLR0917 - as they come, in tables of tests
    month: Month,
    calls: int,
    cents: Decimal,
    billed_cents: Decimal = Decimal(0),
    rating: Rating = USUAL_RATING,
    currency: str | None = None,
    kind: str = LATE_USAGE,
    *,
    charged_cents: int | None = None,
) -> LateUsage:
    charged = rate_cents(billed_cents, rating) if charged_cents is None else charged_cents
    billed = Billed(charged_cents=charged, billed=Usage(0, billed_cents), rating=rating, currency=currency)
    return LateUsage(month, Usage(calls, cents), billed, kind)
