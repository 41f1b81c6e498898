"""Drafting: from a user's usage, account and history to the invoice, as a pure function.

Preview and the real run call the same function, so a preview is what will be billed.
"""

import hashlib
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from spell_billing.core.errors import UsageError
from spell_billing.core.money import (
    MAX_AMOUNT_CENTS,
    exact_sum,
    format_money,
    is_currency,
    plain,
    round_half_up,
)
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.pricing import covered_cents, rate_cents

_LARGEST = 2**63 - 1
"""What the ledger's integer columns hold."""

MAX_LINES = 250
"""Stripe takes at most 250 lines in one `add_lines` request."""

USAGE, INCLUDED, LATE_USAGE, ADJUSTMENT, CREDIT = "usage", "included", "late_usage", "adjustment", "credit"
LATE_KINDS = frozenset({LATE_USAGE, ADJUSTMENT})
UNBILLED = "unbilled"
"""A line without amount, in the ledger only: late usage that an adopted invoice holds more or less of."""


class Account(msgspec.Struct, frozen=True):
    """A row of `billing_accounts` with its plan; `included_cents` is the plan's monthly allowance."""

    stripe_customer_id: str | None
    currency: str = "usd"
    plan_id: str | None = None
    plan_name: str | None = None
    included_cents: int = 0


class LateUsage(msgspec.Struct, frozen=True):
    """Usage of an earlier month that its invoice does not hold.

    `kind` is LATE_USAGE for rows that came or went after the freeze, ADJUSTMENT for what an adopted invoice
    left out. `calls` and `usage_cents` are the difference (negative when rows vanished),
    `billed_usage_cents` what the month's invoice and earlier late lines hold, `included_cents` the allowance
    that month had.
    """

    usage_month: Month
    calls: int
    usage_cents: Decimal
    billed_usage_cents: Decimal = Decimal(0)
    included_cents: int = 0
    currency: str | None = None
    kind: str = LATE_USAGE


class Credit(msgspec.Struct, frozen=True):
    """What refunds of earlier months left over, in whole minor units, above zero."""

    amount_cents: int
    currency: str


class Line(msgspec.Struct, frozen=True):
    """One invoice line. `usage_cents` is the exact cost behind it, `amount_cents` what it charges."""

    kind: str
    description: str
    amount_cents: int
    usage_month: str
    calls: int = 0
    usage_cents: str = "0"


_JSON = msgspec.json.Encoder()
_LINES = msgspec.json.Decoder(tuple[Line, ...])


class Draft(msgspec.Struct, frozen=True):
    """One user's bill of one month, before Stripe: lines that sum to `total_cents`, and what becomes of it.

    `carried_cents` is the credit this month hands on, `credit_applied_cents` the credit it uses up.
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
    included_cents: int
    lines: tuple[Line, ...]
    description: str


def draft_invoice(
    month: Month,
    user_id: str,
    *,
    calls: int,
    usage_cents: Decimal,
    account: Account | None,
    late: Sequence[LateUsage] = (),
    credit: Credit | None = None,
) -> Draft:
    """Draft one user's invoice of a month.

    Args:
        month: The billing period.
        user_id: The platform's user.
        calls: Rows of the user in the month, refunds included.
        usage_cents: Their exact cost in minor units; may be negative.
        account: The billing account, or None when there is none.
        late: Usage of earlier months that was not billed with them.
        credit: Left over from earlier months.

    Returns:
        The draft, `planned`, or with the reason why it is not to be sent.

    Raises:
        UsageError: when an amount exceeds 64 bits.
    """
    currency = account.currency if account else _currency_without_account(late, credit)
    lines = _charges(month, calls, usage_cents, account, late=late, currency=currency)
    due_cents = largest_cents = 0
    for line in lines:
        due_cents += line.amount_cents
        largest_cents = max(largest_cents, abs(line.amount_cents))
    if abs(due_cents) > _LARGEST or largest_cents > _LARGEST or calls > _LARGEST:
        raise UsageError(
            f"User {user_id} has {plain(usage_cents)} cents of usage in {month}, more than 64 bits hold.",
            remedy="Correct the absurd amounts in usage_counters, then bill the month again.",
        )
    applied_cents = 0
    if credit and credit.currency == currency:
        applied_cents = min(credit.amount_cents, max(0, due_cents))
    if applied_cents:
        text = f"Credit carried from earlier months (-{format_money(applied_cents, currency)})"
        lines.append(Line(CREDIT, text, -applied_cents, str(month)))
    total_cents = due_cents - applied_cents
    fits = max(total_cents, largest_cents, applied_cents) <= MAX_AMOUNT_CENTS
    state, reason = (
        (State.HELD, Reason.CURRENCY_CHANGED)
        if _currency_changed(account, late, credit)
        else _verdict(total_cents, account, fits=fits, lines=len(lines))
    )
    usage = lines[0] if lines else None
    # The usual invoice has one line that says the same: to write it again takes a tenth of the time.
    same = usage is not None and usage.kind == USAGE and usage.amount_cents == total_cents
    return Draft(
        user_id=user_id,
        state=state,
        reason=reason,
        account=account,
        currency=currency,
        calls=calls,
        usage_cents=usage_cents,
        total_cents=total_cents,
        # What is held is in two currencies: nothing of it can be handed on.
        carried_cents=-total_cents if total_cents < 0 and state is not State.HELD else 0,
        credit_applied_cents=applied_cents,
        included_cents=account.included_cents if account else 0,
        lines=tuple(lines),
        description=usage.description if usage and same else describe(month, calls, total_cents, currency),
    )


def describe(month: Month, calls: int, amount_cents: int, currency: str) -> str:
    """Write the text of an invoice or a usage line, as the platform promises it to its users."""
    return f"Spell Platform API Usage - {month.label} ({calls} calls, {format_money(amount_cents, currency)})"


def lines_hash(customer_id: str, currency: str, description: str, lines: Sequence[Line]) -> str:
    """Fingerprint what an invoice says: equal content gives an equal hash, on any ledger."""
    return hashlib.sha256(_JSON.encode((customer_id, currency, description, lines))).hexdigest()


def dump_lines(lines: Sequence[Line]) -> str:
    """Write lines as the ledger keeps them."""
    return _JSON.encode(lines).decode()


def load_lines(text: str) -> tuple[Line, ...]:
    """Read lines as the ledger keeps them."""
    return _LINES.decode(text)


def _charges(
    month: Month,
    calls: int,
    usage_cents: Decimal,
    account: Account | None,
    *,
    late: Sequence[LateUsage],
    currency: str,
) -> list[Line]:
    lines: list[Line] = []
    if calls or usage_cents:
        amount_cents = round_half_up(usage_cents)
        text = describe(month, calls, amount_cents, currency)
        lines.append(Line(USAGE, text, amount_cents, str(month), calls, plain(usage_cents)))
    covered = covered_cents(usage_cents, account.included_cents) if account and account.included_cents else 0
    if account and covered:
        name = account.plan_name or account.plan_id or "plan"
        text = f"Included in {name} (-{format_money(covered, currency)})"
        lines.append(Line(INCLUDED, text, -covered, str(month)))
    if late:
        lines.extend(_late_line(item, currency) for item in sorted(late, key=lambda each: each.usage_month))
    return lines


def _late_line(late: LateUsage, currency: str) -> Line:
    now_used_cents = exact_sum(late.billed_usage_cents, late.usage_cents)
    before_cents = rate_cents(late.billed_usage_cents, late.included_cents)
    amount_cents = rate_cents(now_used_cents, late.included_cents) - before_cents
    title = "Late usage" if late.kind == LATE_USAGE else "Adjustment"
    money = format_money(amount_cents, currency)
    text = f"{title} - {late.usage_month.label} ({late.calls} calls, {money})"
    return Line(late.kind, text, amount_cents, str(late.usage_month), late.calls, plain(late.usage_cents))


def _currency_changed(account: Account | None, late: Sequence[LateUsage], credit: Credit | None) -> bool:
    if account is None or not (late or credit):
        return False
    earlier = {item.currency for item in late if item.currency} | ({credit.currency} if credit else set())
    return bool(earlier - {account.currency})


def _verdict(
    total_cents: int, account: Account | None, *, fits: bool, lines: int
) -> tuple[State, Reason | None]:
    if total_cents <= 0:
        return State.SKIPPED, Reason.CREDIT_CARRIED if total_cents < 0 else Reason.NO_CHARGE
    problem = _account_problem(account) or _size_problem(fits=fits, lines=lines)
    return (State.FAILED, problem) if problem else (State.PLANNED, None)


def _account_problem(account: Account | None) -> Reason | None:
    if account is None:
        return Reason.NO_BILLING_ACCOUNT
    if not account.stripe_customer_id:
        return Reason.NO_STRIPE_CUSTOMER
    return None if is_currency(account.currency) else Reason.UNKNOWN_CURRENCY


def _size_problem(*, fits: bool, lines: int) -> Reason | None:
    if not fits:
        return Reason.AMOUNT_TOO_LARGE
    return Reason.TOO_MANY_LINES if lines > MAX_LINES else None


def _currency_without_account(late: Sequence[LateUsage], credit: Credit | None) -> str:
    if credit:
        return credit.currency
    return next((item.currency for item in late if item.currency), "usd")
