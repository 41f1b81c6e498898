"""What the ledger shows, or cannot show any more, that a person must see to before a month is sent.

Pure rules, beside those of `core/review.py`; what they find holds the whole month.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from spell_billing.core.money import format_money
from spell_billing.core.review import NAMED, Code, Finding


@dataclass(frozen=True, slots=True)
class LeftBalance:
    """What a user's former customer has on its balance at Stripe, by the ledger, and who is billed instead.

    `cents` are minor units that the customer owes; below zero, a credit of theirs.
    """

    user: str
    customer: str
    now: str
    currency: str
    cents: int


def balance_findings(left: Sequence[LeftBalance]) -> list[Finding]:
    """Find amounts at Stripe that no invoice takes up, because the users have other customers now."""
    if not left:
        return []
    named = " ".join(
        f"{each.user}: {each.customer} {'owes' if each.cents > 0 else 'has a credit of'} "
        f"{format_money(abs(each.cents), each.currency, grouping=True)}, and was replaced by {each.now}."
        for each in left[:NAMED]
    )
    more = f" And {len(left) - NAMED:,} more." if len(left) > NAMED else ""
    text = (
        f"Customers at Stripe were replaced, and their balances stay with them: {named}{more} Set the "
        "customer back and bill the month again; or move the amount from one balance to the other at "
        "Stripe, and approve."
    )
    return [Finding(Code.BALANCE_LEFT_BEHIND, text, {"balances": [asdict(each) for each in left]})]
