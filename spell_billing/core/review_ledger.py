"""What the ledger shows, or cannot show any more, that a person must see to before a month is sent.

Pure rules, beside those of `core/review.py`; what they find holds the whole month.
"""

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Older:
    """A month of which Stripe had invoices that the ledger never knew.

    `last_invoice` is when the newest that it knew was finalized, in UTC; empty where it knew none.
    """

    month: str
    last_invoice: str


def older_findings(older: Sequence[Older]) -> list[Finding]:
    """Find that the ledger is from before invoices at Stripe: what was decided since then is lost."""
    if not older:
        return []
    months = ", ".join(each.month for each in older)
    last = min(each.last_invoice for each in older)
    knew = f"The newest that it knew is of {last} UTC." if last else "It knew none."
    text = (
        f"Stripe had invoices of {months} that this ledger lacked, as after a backup was restored. {knew} "
        "What was decided since the backup is not in it: see who got a grant, whose bill was settled or "
        "held, and who moved to another id. Enter it again (`spell-billing grant`, `settle`, `hold`, "
        "`move-user`), bill the month again, and approve."
    )
    return [Finding(Code.DECISIONS_LOST, text, {"months": [each.month for each in older]})]


def not_compared_findings(month: str, why: Mapping[str, str]) -> list[Finding]:
    """Find billed months that late usage cannot be looked for in: the ledger or the store is incomplete."""
    if not why:
        return []
    text = (
        f"Late usage of {', '.join(sorted(why))} is not looked for: {' '.join(dict.fromkeys(why.values()))} "
        f"Then bill the month again. If that cannot be, approve: {month} is billed without this late usage, "
        "and later months look for it again."
    )
    return [Finding(Code.PAST_NOT_COMPARED, text, {"months": dict(why)})]
