"""An invoice's lines: their kinds, how the ledger keeps them, and those for usage that came too late."""

import hashlib
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from spell_billing.core.money import exact_sum, format_money, plain, step_cents
from spell_billing.core.month import Month
from spell_billing.core.pricing import USUAL_RATING, Coupon, Rating, due_cents, rate_cents

USAGE, INCLUDED, LATE_USAGE, ADJUSTMENT, CREDIT = "usage", "included", "late_usage", "adjustment", "credit"
LATE_KINDS = frozenset({LATE_USAGE, ADJUSTMENT})
UNBILLED = "unbilled"
"""A line without amount, in the ledger only: late usage that is known, and left for another bill."""
MOVED = "moved"
"""A line without amount, in the ledger only: late usage that another user's late usage makes up for."""
REMAINDER = "remainder"
"""What the currency does not allow to charge: left for the next invoice, and no line of this one."""
BROUGHT = "brought_forward"
"""The remainder of an earlier invoice, charged on this one."""
CHANGED = "changed_at_stripe"
"""What a person changed about the total at Stripe, in the ledger only: given away, or charged on top."""
FEE, FEE_IN_ADVANCE = "fee", "fee_in_advance"
"""A plan's fee: of the bill's own month, or of an earlier one that is corrected; and of the next one."""
FEE_NOTE = "fee_note"
"""A line without amount, in the ledger only: fees of its month were given up, or are corrected here."""
USAGE_DISCOUNT, MINIMUM, DISCOUNT = "usage_discount", "minimum", "discount"
"""What a plan takes off usage, what it adds up to its minimum, and what a discount takes off all of it."""
FEES = frozenset({FEE, FEE_IN_ADVANCE})
PLAN_KINDS = FEES | {USAGE_DISCOUNT, MINIMUM, DISCOUNT}
"""What plans and discounts add and take off, beside the allowance."""
FORGIVEN = "forgiven"
"""A total too small to be charged, given up: in the ledger only, by the month whose usage it is for."""
GRANT = "grant"
"""What a grant, promotional or bought in advance, pays of the bill; the line names the grant."""
RECORDED = frozenset({LATE_USAGE, UNBILLED, MOVED})
"""Lines that together tell each difference that was recorded with the bill's month."""
LEDGER_ONLY = frozenset({UNBILLED, MOVED, REMAINDER, CHANGED, FORGIVEN, FEE_NOTE})
"""Lines that no invoice shows."""
BESIDE_USAGE = frozenset({REMAINDER, BROUGHT, CHANGED, FORGIVEN, GRANT})
"""Lines that charge, or leave, an amount that no month's usage stands behind."""


_TAKEN_OFF = frozenset({INCLUDED, USAGE_DISCOUNT, DISCOUNT})
_CHARGED = (USAGE, MINIMUM, FEE)
TOLD_TO_OTHERS = LATE_KINDS | LEDGER_ONLY | BESIDE_USAGE | {FEE_IN_ADVANCE}
"""Lines that other months' drafts must know of."""


class Line(msgspec.Struct, frozen=True):
    """One invoice line. `usage_cents` is the exact cost behind it, `amount_cents` what it charges.

    `grant_id` is written for what a grant pays, and for no other line.
    """

    kind: str
    description: str
    amount_cents: int
    usage_month: str
    calls: int = 0
    usage_cents: str = "0"
    grant_id: str | msgspec.UnsetType = msgspec.UNSET


class LateUsage(msgspec.Struct, frozen=True):
    """Usage of an earlier month that its invoice does not hold, or of the month itself that came too late.

    Attributes:
        usage_month: The month of the usage.
        calls: The difference; negative where rows vanished.
        usage_cents: Its exact cost.
        billed_usage_cents: What other bills hold of that month's usage.
        rating: How that month's usage is rated; None where the plan of now counts.
        currency: Of what was billed for that month; None when nothing was.
        kind: LATE_USAGE for rows that came or went after the freeze, ADJUSTMENT for what earlier bills left
            out. UNBILLED and MOVED charge nothing, and no invoice shows them.
        charged_cents: What other bills charged for that month, and still stands; None: as it is rated.
        forgiven_cents: Charges for that month that were written off.
        withheld_cents: Credits for that month, above zero, on bills that were written off.
        fee_discount_cents: What discounts took off that month's fee, above zero, where it was written off.
        lowest_cents: What other bills may give back for that month more than they charge, at most zero.
        coupon: What coupons at Stripe took off what other bills charged for that month.
        back_cents: What was given back at Stripe of the invoices that charged for that month, and nobody said
            yet whether it was for rows that went.
    """

    usage_month: Month
    calls: int
    usage_cents: Decimal
    billed_usage_cents: Decimal = Decimal(0)
    rating: Rating | None = USUAL_RATING
    currency: str | None = None
    kind: str = LATE_USAGE
    charged_cents: int | None = None
    forgiven_cents: int = 0
    withheld_cents: int = 0
    fee_discount_cents: int = 0
    lowest_cents: int = 0
    coupon: Coupon = Coupon()
    back_cents: int = 0


_JSON = msgspec.json.Encoder()
_LINES = msgspec.json.Decoder(tuple[Line, ...])


def lines_hash(
    customer_id: str,
    currency: str,
    description: str,
    lines: Sequence[Line] | msgspec.Raw,
    terms: str | None = None,
) -> str:
    """Fingerprint what an invoice says: equal content gives an equal hash, on any ledger.

    Args:
        customer_id: Who pays.
        currency: Of all amounts.
        description: Of the invoice.
        lines: Those of the ledger, also as `dump_lines` wrote them.
        terms: As `dump_terms` writes them. Null, the usual ones, leaves the hash as it is without them.
    """
    content = (customer_id, currency, description, lines)
    return hashlib.sha256(_JSON.encode(content if terms is None else (*content, terms))).hexdigest()


def dump_lines(lines: Sequence[Line]) -> str:
    """Write lines as the ledger keeps them."""
    return _JSON.encode(lines).decode()


def load_lines(text: str) -> tuple[Line, ...]:
    """Read lines as the ledger keeps them."""
    return _LINES.decode(text)


def add_late_lines(
    lines: list[Line],
    month: Month,
    usage_cents: Decimal,
    rating: Rating,
    *,
    late: Sequence[LateUsage],
    currency: str,
) -> set[str]:
    """Add the lines for late usage to those of the month itself.

    Args:
        lines: Usage of the month, and what plans and discounts make of it; no fees.
        month: The month that is drafted.
        usage_cents: Its usage.
        rating: How it is rated.
        late: Usage that was not billed with its month.
        currency: Of the bill.

    Returns:
        The currencies of earlier bills that an amount on the new lines is due in.
    """
    if not late:
        return set()
    here_usage = {month: usage_cents}
    here_cents = {month: sum(line.amount_cents for line in lines)}
    currencies: set[str] = set()
    for item in sorted(late, key=lambda each: each.usage_month):
        of = item.usage_month
        if item.kind in LEDGER_ONLY:
            lines.append(_line_without_amount(item))
            continue
        rated_as = rating if of == month else item.rating or rating.of_usage_alone
        billed_cents = exact_sum(item.billed_usage_cents, here_usage.get(of, Decimal(0)))
        charged_cents = (
            rate_cents(item.billed_usage_cents, rated_as)
            if item.charged_cents is None
            else item.charged_cents
        )
        target_cents = (
            rate_cents(exact_sum(billed_cents, item.usage_cents), rated_as) + item.fee_discount_cents
        )
        amount_cents = due_cents(
            item.coupon.on(target_cents),
            charged_cents + here_cents.get(of, 0),
            item.forgiven_cents,
            item.withheld_cents,
            item.lowest_cents,
        )
        here_usage[of] = exact_sum(here_usage.get(of, Decimal(0)), item.usage_cents)
        here_cents[of] = here_cents.get(of, 0) + amount_cents
        if not (amount_cents or item.calls or item.usage_cents):
            continue
        lines.append(_late_line(item, amount_cents, currency))
        if amount_cents and item.currency:
            currencies.add(item.currency)
    return currencies


def late_sums(lines: Sequence[Line]) -> dict[str, tuple[int, Decimal]]:
    """Return what lines charge for late usage, or give back below zero, with its exact cost, by its month."""
    sums: dict[str, tuple[int, Decimal]] = {}
    for line in lines:
        if line.kind in LATE_KINDS:
            cents, usage_cents = sums.get(line.usage_month, (0, Decimal(0)))
            summed = exact_sum(usage_cents, Decimal(line.usage_cents))
            sums[line.usage_month] = cents + line.amount_cents, summed
    return sums


def shown_lines(lines: Sequence[Line], currency: str) -> list[Line]:
    """Return the lines that an invoice shows.

    Where a charge must be a multiple of a step, each line is one: the largest makes up for what the others
    and a remainder leave.
    """
    shown = [line for line in lines if line.kind not in LEDGER_ONLY]
    step = step_cents(currency)
    if step == 1 or not shown:
        return shown
    total_cents = sum(line.amount_cents for line in lines if line.kind not in LEDGER_ONLY - {REMAINDER})
    amounts = [line.amount_cents - line.amount_cents % step for line in shown]
    largest = max(range(len(shown)), key=amounts.__getitem__)
    amounts[largest] += total_cents - sum(amounts)
    return [
        _charging(line, cents, currency)
        for line, cents in zip(shown, amounts, strict=True)
        if cents or not line.amount_cents
    ]


def taxed_amounts(lines: Sequence[Line]) -> list[int]:
    """Return what each shown line charges on an invoice with tax, to which Stripe adds no line below zero.

    What plans and discounts take off is taken off usage, the minimum and fees, in this order; their own lines
    charge nothing then, and only say how much. Where that is not enough, and for all else below zero, lines
    stay as they are.
    """
    amounts = [line.amount_cents for line in lines]
    off = [place for place, line in enumerate(lines) if line.kind in _TAKEN_OFF and line.amount_cents < 0]
    left = -sum(amounts[place] for place in off)
    for kind in _CHARGED:
        for place, line in enumerate(lines):
            if line.kind == kind and amounts[place] > 0:
                cents = min(left, amounts[place])
                amounts[place] -= cents
                left -= cents
    if left:
        return [line.amount_cents for line in lines]
    for place in off:
        amounts[place] = 0
    return amounts


def _charging(line: Line, cents: int, currency: str) -> Line:
    """Return the line as it charges another amount, in its text too."""
    before, after = format_money(line.amount_cents, currency), format_money(cents, currency)
    # At the end alone: an item's name may hold the same words.
    text = line.description
    if text.endswith(f"{before})"):
        text = f"{text.removesuffix(f'{before})')}{after})"
    return msgspec.structs.replace(line, amount_cents=cents, description=text)


def _late_line(late: LateUsage, amount_cents: int, currency: str) -> Line:
    title = "Late usage" if late.kind == LATE_USAGE else "Adjustment"
    money = format_money(amount_cents, currency)
    text = f"{title} - {late.usage_month.label} ({late.calls} calls, {money})"
    return Line(late.kind, text, amount_cents, str(late.usage_month), late.calls, plain(late.usage_cents))


def _line_without_amount(late: LateUsage) -> Line:
    title = "Moved between users" if late.kind == MOVED else "Left for another bill"
    usage_cents = plain(late.usage_cents)
    text = f"{title} - {late.usage_month.label} ({late.calls} calls, {usage_cents} cents)"
    return Line(late.kind, text, 0, str(late.usage_month), late.calls, usage_cents)
