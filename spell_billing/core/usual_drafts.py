"""The usual bill, drafted in a third of the time: one line for the month's usage, and nothing beside it.

Most bills of a month are like that. `core/drafting.py` says what a bill is; this says the same of these.
"""

from decimal import Decimal
from functools import lru_cache

from spell_billing.core.drafting import LARGEST, Account, Draft
from spell_billing.core.lines import USAGE, Line
from spell_billing.core.money import is_currency, max_amount_cents, plain, round_half_up, step_cents
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.core.pricing import USUAL_RATING
from spell_billing.core.terms import USUAL_TERMS
from spell_billing.core.usage_lines import describe


def usual_draft(
    month: Month, user_id: str, *, calls: int, usage_cents: Decimal, account: Account | None
) -> Draft | None:
    """Draft the bill of a user for whom there is nothing but the month's usage, under the usual policy.

    Return exactly what `draft_invoice` returns of the same; None where the bill is not a usual one: without a
    charge, of an account that cannot be billed or has terms of its own, or of an amount that Stripe does not
    take.
    """
    if account is None or not account.is_usual:
        return None
    currency, amount_cents = account.currency, round_half_up(usage_cents)
    if not 0 < amount_cents <= _most_cents(currency) or calls > LARGEST:
        return None
    text = describe(month, calls, amount_cents, currency)
    line = Line(USAGE, text, amount_cents, str(month), calls, plain(usage_cents))
    return Draft(
        *(user_id, State.PLANNED, None, account, currency, calls, usage_cents, amount_cents, 0, 0),
        *(USUAL_RATING, (line,), text, USUAL_TERMS),
    )


@lru_cache(maxsize=1_000)
def _most_cents(currency: str) -> int:
    """Return the largest usual bill; none where Stripe does not know the currency, or wants round amounts."""
    return max_amount_cents(currency) if is_currency(currency) and step_cents(currency) == 1 else 0
