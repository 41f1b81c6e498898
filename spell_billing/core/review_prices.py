"""Prices, terms and settings of the month billed before that a month is without, perhaps by mistake.

A table that was emptied, a column that was renamed and a setting that was lost in a move leave no error, only
other bills. Pure rules, beside those of `core/review.py`; what they find holds the whole month.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from spell_billing.core.money import format_amounts, round_half_up
from spell_billing.core.outcomes import Reason
from spell_billing.core.review import Code, Finding, ReviewRules, some
from spell_billing.core.terms import OFF, Terms

_FEW = 2
"""Of so many users on, what all of them lose at once is no decision about one of them."""
_MOST_PERCENT = {Reason.SMALL_FORGIVEN: 10, Reason.SMALL_CARRIED: 50}
"""How much of a month may be too small to be charged: what is left for later is not lost."""


_TERMS: Sequence[tuple[str, Callable[[Terms], bool], int, str]] = (
    ("with tax", lambda terms: terms.tax != OFF, 1, "AUTOMATIC_TAX"),
    (
        "with the discounts of customers at Stripe",
        lambda terms: terms.discounts,
        1,
        "HONOUR_STRIPE_DISCOUNTS",
    ),
    ("by an invoice in the mail", lambda terms: terms.is_sent, _FEW, "billing_accounts.collection"),
)
"""What bills may have, of how many users it is missed, and where to look."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What a month is priced by, in words, as it was frozen.

    Attributes:
        cards: The rate cards.
        charged: What each of them charged, in minor units of whatever currency.
        calls: Calls of the month, where there are cards.
        free_calls: Those of them that no card prices, and that cost nothing.
        forgotten: Those of these that a card prices for another plan; all of them where nothing is charged
            at its stored cost. By whose they are: `plan pro`, or `no plan`.
        plans: The plans that somebody is on.
        parts: What these have, as (plan, `monthly fee`).
        discounts: The discounts, those that ended included.
        lasting: Those that run on when the month ends.
        users: Who is on a plan that has neither a start nor an end: mostly by the account.
        planned: Who is on a plan when the month ends, or was on one since ever whose end was filled in.
        switched_off: Who has subscriptions, all of other times: the account's plan does not count.
    """

    cards: Collection[str] = ()
    charged: Mapping[str, Decimal] = field(default_factory=dict)
    calls: int = 0
    free_calls: int = 0
    forgotten: Mapping[str, int] = field(default_factory=dict)
    plans: Collection[str] = ()
    parts: Collection[tuple[str, str]] = ()
    discounts: Collection[str] = ()
    lasting: Collection[str] = ()
    users: Collection[str] = ()
    planned: Collection[str] = ()
    switched_off: Collection[str] = ()


class BilledTwice(NamedTuple):
    """Users with a bill in the month before and in this one, with the same currencies and terms in both."""

    currency_before: str
    currency: str
    terms_before: Terms
    terms: Terms
    users: int


def subscription_findings(
    running: Collection[str], gone: Collection[str], staying: Collection[str]
) -> list[Finding]:
    """Return whether subscriptions vanished from the platform, instead of being ended.

    Users who vanished with their accounts may have been removed; so many at once were not.

    Args:
        running: Users whose subscription ran on when the month before ended.
        gone: Those of them who have none in the month, not even one that ended.
        staying: Those of `gone` who still have an account of their own.
    """
    found = gone if len(gone) * 2 >= len(running) else staying
    if not found:
        return []
    text = (
        f"The subscriptions of {len(found):,} of {len(running):,} users vanished from plan_subscriptions: "
        f"{some(sorted(found))}. Their accounts' plans are charged instead. To end one, fill in its ends_at."
    )
    return [Finding(Code.SUBSCRIPTIONS_GONE, text, {"users": len(found), "of": len(running)})]


def price_findings(
    month: str, before: Prices, now: Prices, rules: ReviewRules, *, than: str
) -> list[Finding]:
    """Find whether prices of the month billed before, `than`, are gone: no row says what became of them."""
    plans = set(now.plans)
    lost = sorted(each for each in set(before.parts) - set(now.parts) if each[0] in plans)
    cards = sorted(set(before.cards) - set(now.cards))
    discounts = sorted(set(before.lasting) - set(now.discounts))
    without = set(before.users) - set(now.planned)
    users = sorted(without)
    switched_off = sorted(without & set(now.switched_off))
    parts = []
    if lost:
        parts.append(some([f"plan {plan} has no {part}" for plan, part in lost]))
    if cards:
        parts.append(f"rate_cards lacks {some(cards)}")
    parts += _unpriced(before, now, rules, than)
    if discounts and len(discounts) * 2 >= len(before.lasting):
        parts.append(f"billing_discounts lacks {some(discounts)}")
    if len(users) >= _FEW and len(users) * 2 >= len(before.users):
        parts.append(f"{len(users):,} of {len(before.users):,} users are on no plan ({some(users)})")
    elif switched_off:
        parts.append(
            f"the account's plan does not count for {some(switched_off)}, whose plan_subscriptions all "
            "cover other times: enter the present plan there as well"
        )
    if not parts:
        return []
    text = (
        f"{month} lacks prices that {than} had: {'; '.join(parts)}. Check that rate_cards, "
        "billing_plans, billing_discounts and billing_accounts are complete. To change a rate card, add one "
        "with a later valid_from; to end a discount, fill in its ends_at."
    )
    data = {
        "before": than,
        "plans": len(lost),
        "rate_cards": len(cards),
        "discounts": len(discounts),
        "users": len(users),
    }
    return [Finding(Code.PRICES_GONE, text, data)]


def _unpriced(before: Prices, now: Prices, rules: ReviewRules, than: str) -> list[str]:
    """Say which cards charge nothing any more, and whether calls fell out of all of them."""
    silent = [
        f"{place} ({round_half_up(cents):,} cents in {than})"
        for place, cents in sorted(before.charged.items())
        if cents > rules.floor_cents and place in now.cards and not now.charged.get(place)
    ]
    parts = [f"nothing is priced any longer by the rate card of {some(silent)}"] if silent else []
    were, are = (each.free_calls * 100 > rules.past_percent * each.calls for each in (before, now))
    if are and not were and now.free_calls:
        parts.append(
            f"{now.free_calls:,} of {now.calls:,} calls cost nothing because no rate card prices them"
        )
    return parts


def first_price_findings(month: str, now: Prices) -> list[Finding]:
    """Find calls that may lack a card, where no month before tells whether they are meant to be free."""
    if not now.forgotten:
        return []
    whose = some([f"{calls:,} of users on {plan}" for plan, calls in sorted(now.forgotten.items())])
    number = f"{sum(now.forgotten.values()):,} of {now.calls:,} calls"
    text = (
        f"{month} is the first month, and {number} cost nothing because no rate card prices them: {whose}. "
        "If they should cost something, check these users' plans, and plan_id and item in rate_cards."
    )
    return [Finding(Code.CALLS_UNPRICED, text, {"calls": dict(now.forgotten), "of": now.calls})]


def missing_plan_findings(plans: Mapping[str, int]) -> list[Finding]:
    """Find plans that accounts name where there is no table of plans; given as how many name each."""
    if not plans:
        return []
    number = sum(plans.values())
    who = "1 account names" if number == 1 else f"{number:,} accounts name"
    text = (
        f"{who} a plan ({some(sorted(plans))}), but there is no billing_plans: nothing is included, and no "
        "fee is charged. See whether the table is in this database, and billing may see it. If billing has "
        "no part in these plans, approve."
    )
    return [Finding(Code.PLANS_MISSING, text, {"plans": dict(plans)})]


def terms_findings(
    month: str, pairs: Sequence[BilledTwice], swapped: Sequence[str], *, than: str
) -> list[Finding]:
    """Find whether bills have lost the tax, the discounts, the mail or the currency that all of them had.

    Or the customer: of the `swapped` users it is one that another user had, who has another one now as well.
    """
    parts = []
    if swapped:
        parts.append(
            f"the customers of other users would get the bills of {some(swapped)} (see "
            "billing_accounts.stripe_customer_id)"
        )
    for words, has, at_least, look in _TERMS:
        had = [pair for pair in pairs if has(pair.terms_before)]
        users = sum(pair.users for pair in had)
        if users >= at_least and not any(has(pair.terms) for pair in had):
            who = "the 1 user who was" if users == 1 else f"the {users:,} users who were"
            parts.append(f"{who} billed {words} would be billed without (see {look})")
    everybody = sum(pair.users for pair in pairs)
    moved = sum(pair.users for pair in pairs if pair.currency != pair.currency_before)
    if moved >= _FEW and moved * 2 >= everybody:
        where = "see billing_accounts.currency"
        parts.append(f"{moved:,} of {everybody:,} users would be billed in another currency ({where})")
    if not parts:
        return []
    text = (
        f"The bills of {month} are on other terms than those of {than}: {'; '.join(parts)}. If that is a "
        "mistake, correct it and bill the month again."
    )
    return [Finding(Code.TERMS_GONE, text, {"before": than, "users": everybody})]


def small_amount_findings(
    month: str, small: Iterable[tuple[Reason, str, int]], charged: Mapping[str, int], rules: ReviewRules
) -> list[Finding]:
    """Find whether much of the month counts as too small to be charged, which a wrong minimum does.

    `small` is what is forgiven, or left for later invoices: why, currency, minor units.
    """
    parts = []
    for reason, currency, cents in sorted(small):
        due = charged.get(currency, 0) + cents
        if cents > rules.floor_cents and cents * 100 > due * _MOST_PERCENT[reason]:
            what = "given up" if reason is Reason.SMALL_FORGIVEN else "left for later invoices"
            amounts = format_amounts({currency: cents}), format_amounts({currency: due})
            parts.append(f"{amounts[0]} of {amounts[1]} would be {what}")
    if not parts:
        return []
    text = (
        f"Much of {month} is too small to be charged: {'; '.join(parts)}. See MINIMUM_INVOICE_CENTS, which "
        "is in cents, and SMALL_AMOUNTS."
    )
    return [Finding(Code.SMALL_AMOUNTS, text)]
