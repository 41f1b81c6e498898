"""Payment readiness: who will owe something for a month, and has no way to pay it. Nothing is written."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from spell_billing.core.drafting import account_problem
from spell_billing.core.errors import StripeSilentError
from spell_billing.core.month import Month
from spell_billing.core.open_month import rate_open_month
from spell_billing.core.outcomes import Reason
from spell_billing.core.pricing import Rating
from spell_billing.core.terms import USUAL_TERMS, Terms
from spell_billing.invoicing.gateway import Gateway
from spell_billing.stripe_api.problems import Kind, StripeProblem
from spell_billing.usage.accounts import DEFAULT_CURRENCY, accounts_by_user
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.frozen import Totals
from spell_billing.usage.plan_book import book_of

CUSTOMER = "GET /v1/customers/{customer}"
_SIDE_BY_SIDE = 50
"""Requests under way; the gateway paces them."""


class Gap(StrEnum):
    """What keeps a user from paying. `REMEDIES` has the words for operators."""

    NO_ACCOUNT = "no_billing_account"
    NO_CUSTOMER = "no_stripe_customer"
    UNKNOWN_CUSTOMER = "unknown_customer"
    CUSTOMER_DELETED = "customer_deleted"
    NO_PAYMENT_METHOD = "no_payment_method"
    UNKNOWN_CURRENCY = Reason.UNKNOWN_CURRENCY.value
    UNKNOWN_PLAN = Reason.UNKNOWN_PLAN.value
    PLAN_CURRENCY = Reason.PLAN_CURRENCY.value
    UNKNOWN_COLLECTION = Reason.UNKNOWN_COLLECTION.value
    INVALID_NET_DAYS = Reason.INVALID_NET_DAYS.value
    TEXT_TOO_LONG = Reason.TEXT_TOO_LONG.value


REMEDIES: Mapping[Gap, str] = {
    Gap.NO_ACCOUNT: "no row in billing_accounts: add one",
    Gap.NO_CUSTOMER: "no stripe_customer_id: create the customer at Stripe, and store its id",
    Gap.UNKNOWN_CUSTOMER: "Stripe does not know the customer: correct stripe_customer_id",
    Gap.CUSTOMER_DELETED: "the customer was deleted at Stripe: create another, and store its id",
    Gap.NO_PAYMENT_METHOD: "no default payment method: the user must add one",
    Gap.UNKNOWN_CURRENCY: "the account's currency is none: correct it, as usd",
    Gap.UNKNOWN_PLAN: "the account's plan_id is not in billing_plans: correct it, or add the plan",
    Gap.PLAN_CURRENCY: "the plan is in another currency than the account: make them the same",
    Gap.UNKNOWN_COLLECTION: "the account's collection is neither charge nor send: correct it",
    Gap.INVALID_NET_DAYS: "the account's net_days is no number of days that Stripe takes: correct it",
    Gap.TEXT_TOO_LONG: "the account's po_number or footer is too long for an invoice: shorten it",
}


@dataclass(frozen=True, slots=True)
class Owing:
    """A user who owes something for a month so far, as drafted without credits and late usage.

    `cents` are minor units of the account's `currency` (the default without an account), above zero.
    `problem` is why the user cannot be billed, as far as the platform's tables tell. An invoice that is
    `sent_by_mail` is paid by hand: no payment method is needed.
    """

    user_id: str
    calls: int
    cents: int
    currency: str
    customer_id: str | None
    problem: Reason | None
    sent_by_mail: bool


@dataclass(frozen=True, slots=True)
class Unready:
    """A user who owes something and cannot pay it."""

    owing: Owing
    gap: Gap

    def as_json(self, card_link_of: Callable[[str], str] | None = None) -> dict[str, Any]:
        """Return it for programs, with the user's link to Stripe's page for a card where one helps."""
        link = self.gap is Gap.NO_PAYMENT_METHOD and card_link_of and card_link_of(self.owing.user_id)
        return {
            "card_link": link or None,
            "user_id": self.owing.user_id,
            "reason": self.gap.value,
            "remedy": REMEDIES[self.gap],
            "stripe_customer_id": self.owing.customer_id,
            "calls": self.owing.calls,
            "cents": self.owing.cents,
            "currency": self.owing.currency,
        }


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a check found; `unready` by amount, the largest first."""

    month: Month
    owing: Sequence[Owing]
    unready: Sequence[Unready]

    @property
    def unready_cents(self) -> dict[str, int]:
        """What cannot be paid, by currency."""
        return _sums(each.owing for each in self.unready)

    def by_gap(self) -> dict[Gap, tuple[int, dict[str, int]]]:
        """Return how many users each gap has, and what they owe by currency; only gaps that there are."""
        found = {gap: [each.owing for each in self.unready if each.gap is gap] for gap in Gap}
        return {gap: (len(users), _sums(users)) for gap, users in found.items() if users}

    def as_json(self, card_link_of: Callable[[str], str] | None = None) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "month": str(self.month),
            "users": len(self.owing),
            "cents": _sums(self.owing),
            "unready_users": len(self.unready),
            "unready_cents": self.unready_cents,
            "by_reason": {
                gap.value: {"users": users, "cents": sums} for gap, (users, sums) in self.by_gap().items()
            },
            "unready": [each.as_json(card_link_of) for each in self.unready],
        }


def owing_so_far(source: UsageSource, month: Month, usage: Mapping[str, Totals]) -> list[Owing]:
    """Return the users who owe something, by user id.

    Args:
        source: For billing accounts and plans.
        month: The month.
        usage: Of it, by user. One whose plan covers it all, or who gets money back, owes nothing.
    """
    book = book_of(month, source.plans(month))
    usage = dict.fromkeys(book.users_charged_alone(), Totals(0, Decimal(0))) | dict(usage)
    accounts = accounts_by_user(source.accounts())
    found = []
    for user_id, totals in sorted(usage.items()):
        account = accounts.get(user_id)
        plan, terms = book.plan_of(user_id), account.terms if account else USUAL_TERMS
        rating = plan.rating if plan else Rating(account.included_cents if account else 0)
        cents = rate_open_month(totals.cost_cents, rating).due_cents
        if cents > 0:
            found.append(
                Owing(
                    user_id,
                    totals.calls,
                    cents,
                    account.currency if account else DEFAULT_CURRENCY,
                    account.stripe_customer_id if account else None,
                    account_problem(account, terms, plan),
                    sent_by_mail=isinstance(terms, Terms) and terms.is_sent,
                )
            )
    return found


async def check_readiness(month: Month, owing: Sequence[Owing], gateway: Gateway) -> Readiness:
    """Ask Stripe about each customer, once, and say who cannot pay.

    Raises:
        StripeAccountError: when Stripe refuses the key; StripeSilentError: when it does not answer.
    """
    customers = {each.customer_id for each in owing if each.customer_id}
    gaps = await _gaps(customers, gateway)
    unready = [Unready(each, gap) for each in owing if (gap := _gap(each, gaps)) is not None]
    unready.sort(key=lambda each: (-each.owing.cents, each.owing.user_id))
    return Readiness(month, owing, unready)


async def _gaps(customers: Collection[str], gateway: Gateway) -> dict[str, Gap | None]:
    waiting, found = iter(sorted(customers)), dict[str, Gap | None]()

    async def ask() -> None:
        for customer_id in waiting:
            found[customer_id] = await _gap_of_customer(gateway, customer_id)

    await asyncio.gather(*(ask() for _ in range(min(_SIDE_BY_SIDE, len(customers)))))
    return found


async def _gap_of_customer(gateway: Gateway, customer_id: str) -> Gap | None:
    try:
        answer = await gateway.send(CUSTOMER, customer=customer_id)
    except StripeProblem as problem:
        if problem.kind is Kind.MISSING:
            return Gap.UNKNOWN_CUSTOMER
        raise StripeSilentError(
            f"Stripe did not say how customer {customer_id} pays: {problem.message}.",
            remedy="Try again later; nothing was changed.",
        ) from None
    customer = answer.object
    if customer.get("deleted"):
        return Gap.CUSTOMER_DELETED
    settings = customer.get("invoice_settings") or {}
    has_method = settings.get("default_payment_method") or customer.get("default_source")
    return None if has_method else Gap.NO_PAYMENT_METHOD


def _gap(owing: Owing, gaps: Mapping[str, Gap | None]) -> Gap | None:
    if owing.problem is not None or owing.customer_id is None:
        return Gap(owing.problem or Gap.NO_CUSTOMER)
    gap = gaps[owing.customer_id]
    return None if owing.sent_by_mail and gap is Gap.NO_PAYMENT_METHOD else gap


def _sums(owing: Iterable[Owing]) -> dict[str, int]:
    sums: defaultdict[str, int] = defaultdict(int)
    for each in owing:
        sums[each.currency] += each.cents
    return dict(sorted(sums.items()))
