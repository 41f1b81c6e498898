"""The usual bill as a row, made in a third of the time: one line for the month's usage, nothing beside it.

Most bills of a month are like that. `core/drafting.py` says what a bill is, and `ledger/rows.py` what its
columns are; this says the same of these bills, to the letter.
"""

import hashlib
from decimal import Decimal
from functools import lru_cache

from spell_billing.core.drafting import LARGEST
from spell_billing.core.money import is_currency, max_amount_cents, plain, round_half_up, step_cents
from spell_billing.core.month import Month
from spell_billing.core.usage_lines import describe
from spell_billing.ledger.rows import DraftRow

UserMonth = tuple[
    str, int, str, bool, str | None, str, str | None, str | None, int | None, *tuple[str | None, ...]
]
"""A user's id, calls and exact cost (text, no exponent), whether there is an account, then the `Account`."""


_USUAL = [None] * 4


def usual_bill(month: Month, of: UserMonth) -> DraftRow | None:
    """Write the bill of a user for whom there is nothing but the month's usage, under the usual policy.

    Returns:
        Exactly the row of what `draft_invoice` drafts. None where the bill is not a usual one: without a
        charge, of an account that cannot be billed or has terms of its own, or of an amount that Stripe does
        not take.
    """
    user_id, calls, usage_cents, _, customer_id, currency, plan_id, plan_name, included_cents, *terms = of
    # An identifier needs no escaping in JSON; Stripe's customers are such.
    if (
        plan_name == ""
        or included_cents
        or terms != _USUAL
        or not (customer_id and customer_id.isidentifier())
    ):
        return None
    if "." in usage_cents:
        exact = Decimal(usage_cents)
        usage_cents, cents = plain(exact), round_half_up(exact)
    else:
        cents = int(usage_cents)
    if not 0 < cents <= _most_cents(currency) or calls > LARGEST:
        return None
    text = describe(month, calls, cents, currency)
    lines = (
        f'[{{"kind":"usage","description":"{text}","amount_cents":{cents},"usage_month":"{month}",'
        f'"calls":{calls},"usage_cents":"{usage_cents}"}}]'
    )
    fingerprint = hashlib.sha256(f'["{customer_id}","{currency}","{text}",{lines}]'.encode()).hexdigest()
    return (
        *(user_id, "planned", None, customer_id, currency, plan_id, calls, usage_cents, cents),
        *(0, None, 0, 0, 0, 0, 0, 0, text, lines, fingerprint, None),
    )


@lru_cache(maxsize=1_000)
def _most_cents(currency: str) -> int:
    """Return the largest usual bill; none where Stripe does not know the currency, or wants round amounts."""
    return max_amount_cents(currency) if is_currency(currency) and step_cents(currency) == 1 else 0
