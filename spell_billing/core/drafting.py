"""Drafting: from a user's usage, account and history to the invoice, as a pure function.

Preview and the real run call the same function, so a preview is what will be billed.
"""

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from spell_billing.core.errors import UsageError
from spell_billing.core.fees import NOTHING_CHARGED, FeesCharged, fee_lines
from spell_billing.core.grants import Grant, paid_by_grants
from spell_billing.core.items import ItemUsage, split_usage
from spell_billing.core.late import LateUsage
from spell_billing.core.late_lines import add_late_lines, may_give_back_twice
from spell_billing.core.lines import BROUGHT, CREDIT, REMAINDER, USAGE, Line, net_amounts, shown_lines
from spell_billing.core.money import format_money, is_currency, max_amount_cents, plain, step_cents
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.plans import NO_PLAN, MonthPlan
from spell_billing.core.pricing import Rating
from spell_billing.core.small_amounts import take_small_amount_off
from spell_billing.core.terms import STRIPE, USUAL_POLICY, USUAL_TERMS, Policy, Terms, terms_of, under
from spell_billing.core.usage_lines import charges, describe, item_lines

LARGEST = 2**63 - 1
"""What the ledger's integer columns hold."""

MAX_LINES = 250
"""Stripe takes at most 250 lines in one `add_lines` request."""


class Account(msgspec.Struct, frozen=True):
    """A row of `billing_accounts` with its plan; `included_cents` is the plan's monthly allowance.

    `plan_name` is blank where there is no such plan. `collection` and what follows it are as the table has
    them, blank text as None.
    """

    stripe_customer_id: str | None
    currency: str = "usd"
    plan_id: str | None = None
    plan_name: str | None = None
    included_cents: int = 0
    collection: str | None = None
    net_days: str | None = None
    po_number: str | None = None
    footer: str | None = None

    @property
    def terms(self) -> Terms | Reason:
        """The terms of the account's bills; or why it cannot be billed."""
        return terms_of(self.collection, self.net_days, self.po_number, self.footer)


class Credit(msgspec.Struct, frozen=True):
    """What earlier months left over, in whole minor units.

    Above zero what refunds left to the user; below zero what the currency did not allow to charge.
    """

    amount_cents: int
    currency: str


class Draft(msgspec.Struct, frozen=True):
    """One user's bill of one month, before Stripe: lines that sum to `total_cents`, and what becomes of it.

    `carried_cents` is the credit this month hands on, `credit_applied_cents` the credit it uses up. Below
    zero, the one is a remainder left for the next invoice, the other a remainder that this one charges.
    """

    user_id: str
    state: State
    reason: Reason | None
    account: Account | None
    currency: str
    calls: int
    usage_cents: Decimal
    total_cents: int
    carried_cents: int
    credit_applied_cents: int
    rating: Rating
    lines: tuple[Line, ...]
    description: str
    terms: Terms = USUAL_TERMS


def draft_invoice(
    month: Month,
    user_id: str,
    *,
    calls: int,
    usage_cents: Decimal,
    account: Account | None,
    late: Sequence[LateUsage] = (),
    credit: Credit | None = None,
    other_credits: Sequence[Credit] = (),
    plan: MonthPlan | None = None,
    fees_charged: FeesCharged = NOTHING_CHARGED,
    grants: Sequence[Grant] = (),
    policy: Policy = USUAL_POLICY,
    items: Sequence[ItemUsage] = (),
    may_owe_fee: bool = False,
) -> Draft:
    """Draft one user's invoice of a month.

    Args:
        month: The billing period.
        user_id: The platform's user.
        calls: Rows of the user in the month, refunds included.
        usage_cents: Their exact cost in minor units; may be negative.
        account: The billing account, or None when there is none.
        late: Usage that was not billed with its month.
        credit: Left over from earlier months. A remainder is charged only where something else is.
        other_credits: Left over in other currencies; they hold the bill.
        plan: What the user's plans come to in the month; None: what the account's plan includes.
        fees_charged: Fees that bills charge already.
        grants: What the user has to pay bills with; used before credits.
        policy: What the settings say of all bills.
        items: The usage by item, which makes a line for each; empty for one line.
        may_owe_fee: The account's plan is unknown, and plans charge fees: nothing due is not certain.

    Returns:
        The draft, `planned`, or with the reason why it is not to be sent.

    Raises:
        UsageError: when an amount exceeds 64 bits.
        IntegrityError: when the items do not add up to the usage.
    """
    currency = account.currency if account else _currency_without_account(late, credit, fees_charged)
    known_plan = plan or _plan_of(account)
    rating = known_plan.rating
    lines = charges(month, calls, usage_cents, known_plan, currency)
    if items:
        by_item = split_usage(user_id, items, calls=calls, usage_cents=usage_cents)
        of_items = item_lines(month, by_item, currency)
        # Stripe adds no line below zero to an invoice with tax, and takes no discount off it.
        if not policy.needs_charges or all(line.amount_cents >= 0 for line in of_items):
            lines[:1] = of_items
    earlier = add_late_lines(
        lines, month, usage_cents, rating, late=late, currency=currency, discounts=policy.discounts
    )
    if known_plan.has_fees or fees_charged != NOTHING_CHARGED:
        of_fees, currencies = fee_lines(
            month,
            known_plan,
            currency,
            charged=fees_charged,
            in_advance=policy.fees_in_advance,
            usage_cents=usage_cents,
        )
        lines += of_fees
        earlier |= currencies
    amounts = [line.amount_cents for line in lines] or [0]
    charge_cents, largest_cents = sum(amounts), max(*amounts, -min(amounts))
    if abs(charge_cents) > LARGEST or largest_cents > LARGEST or calls > LARGEST:
        raise UsageError(
            f"User {user_id} has {plain(usage_cents)} cents of usage in {month}, more than 64 bits hold.",
            remedy="Correct the absurd amounts in usage_counters, then bill the month again.",
        )
    if grants and account:
        paid = paid_by_grants(grants, month, charge_cents, currency)
        lines.extend(paid)
        charge_cents += sum(line.amount_cents for line in paid)
    applied_cents = _apply_credit(lines, month, credit, charge_cents, currency)
    total_cents = charge_cents - applied_cents
    left_cents = total_cents % step_cents(currency) if total_cents > 0 else 0
    if left_cents:
        text = f"Left for the next invoice ({format_money(left_cents, currency)})"
        lines.append(Line(REMAINDER, text, -left_cents, str(month)))
        total_cents -= left_cents
    terms = account.terms if account else USUAL_TERMS
    is_usual = policy == USUAL_POLICY
    # Which lines an invoice shows is asked only where it matters.
    shown = lines if is_usual and len(lines) <= MAX_LINES else shown_lines(lines, currency)
    if not is_usual and isinstance(terms, Terms) and total_cents > 0:
        terms = under(policy, terms, has_negative_line=min(net_amounts(shown)) < 0)
    fits = max(total_cents, largest_cents, applied_cents) <= max_amount_cents(currency)
    problem = account_problem(account, terms, plan) or _size_problem(fits=fits, lines=len(shown))
    state, reason = (
        (State.HELD, Reason.CURRENCY_CHANGED)
        if account and _currencies(earlier, credit, other_credits) - {account.currency}
        else _verdict(total_cents, problem, may_owe_fee=may_owe_fee)
    )
    goes_twice = may_give_back_twice(lines, late) or fees_charged.may_go_back_twice(lines, month)
    if state in {State.PLANNED, State.SKIPPED} and goes_twice:
        state, reason = State.HELD, Reason.ALREADY_GIVEN_BACK
    is_small = policy.small_amounts != STRIPE and total_cents < policy.minimum_cents
    if account and is_small and state is State.PLANNED:
        state, total_cents, terms = State.SKIPPED, 0, account.terms
        reason, left_cents, applied_cents = take_small_amount_off(lines, month, currency, policy)
    usage = lines[0] if lines else None
    # The usual invoice has one line that says the same: to write it again takes a tenth of the time.
    same = usage is not None and usage.kind == USAGE and not items and usage.amount_cents == total_cents
    return Draft(
        user_id=user_id,
        state=state,
        reason=reason,
        account=account,
        currency=currency,
        calls=calls,
        usage_cents=usage_cents,
        total_cents=total_cents,
        # Of a bill that is held, nothing can be handed on yet.
        carried_cents=-left_cents if left_cents or state is State.HELD else -min(total_cents, 0),
        credit_applied_cents=applied_cents,
        rating=rating,
        lines=tuple(lines),
        description=usage.description if usage and same else describe(month, calls, total_cents, currency),
        terms=USUAL_TERMS if isinstance(terms, Reason) else terms,
    )


def _plan_of(account: Account | None) -> MonthPlan:
    """Return what an account's plan includes, where no plans were frozen for the user."""
    if account is None or not account.included_cents:
        return NO_PLAN
    name = account.plan_name or account.plan_id or "plan"
    return MonthPlan(account.plan_id, name, Rating(account.included_cents))


def _apply_credit(
    lines: list[Line], month: Month, credit: Credit | None, charge_cents: int, currency: str
) -> int:
    """Add the line of a credit, or of a remainder, where something is charged; return what it takes off."""
    if credit is None or credit.currency != currency or charge_cents <= 0:
        return 0
    applied_cents = min(credit.amount_cents, charge_cents)
    if applied_cents > 0:
        text = f"Credit carried from earlier months (-{format_money(applied_cents, currency)})"
        lines.append(Line(CREDIT, text, -applied_cents, str(month)))
    elif applied_cents:
        text = f"Brought forward from earlier invoices ({format_money(-applied_cents, currency)})"
        lines.append(Line(BROUGHT, text, -applied_cents, str(month)))
    return applied_cents


def _currencies(late: set[str], credit: Credit | None, others: Sequence[Credit]) -> set[str]:
    if not credit and not others:
        return late
    given = [each for each in (credit, *others) if each and each.amount_cents > 0]
    return late | {each.currency for each in given}


def _verdict(total_cents: int, problem: Reason | None, *, may_owe_fee: bool) -> tuple[State, Reason | None]:
    if may_owe_fee and total_cents == 0:
        return State.FAILED, Reason.UNKNOWN_PLAN
    if total_cents <= 0:
        return State.SKIPPED, Reason.CREDIT_CARRIED if total_cents < 0 else Reason.NO_CHARGE
    return (State.FAILED, problem) if problem else (State.PLANNED, None)


def account_problem(account: Account | None, terms: Terms | Reason, plan: MonthPlan | None) -> Reason | None:
    """Return why a user cannot be billed, as far as the platform's tables tell; None where they can."""
    if account is None:
        return Reason.NO_BILLING_ACCOUNT
    if not account.stripe_customer_id:
        return Reason.NO_STRIPE_CUSTOMER
    if not is_currency(account.currency):
        return Reason.UNKNOWN_CURRENCY
    if account.plan_id is not None and account.plan_name == "":
        return Reason.UNKNOWN_PLAN
    if plan is not None and any(currency != account.currency for currency in plan.currencies):
        return Reason.PLAN_CURRENCY
    return terms if isinstance(terms, Reason) else None


def _size_problem(*, fits: bool, lines: int) -> Reason | None:
    if not fits:
        return Reason.AMOUNT_TOO_LARGE
    return Reason.TOO_MANY_LINES if lines > MAX_LINES else None


def _currency_without_account(late: Sequence[LateUsage], credit: Credit | None, fees: FeesCharged) -> str:
    if credit:
        return credit.currency
    of_late = (item.billed.currency for item in late if item.billed.currency)
    return next(iter((*of_late, *sorted(fees.of_month.currencies))), "usd")
