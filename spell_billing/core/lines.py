"""An invoice's lines: their kinds, how the ledger keeps them, and how an invoice shows them."""

import hashlib
from collections.abc import Sequence

import msgspec

from spell_billing.core.errors import altered_text
from spell_billing.core.money import format_money, step_cents

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

    `grant_id` is written for what a grant pays, and for no other line; `without_coupon` for what charges
    money that was given back: a coupon at Stripe was taken off before.
    """

    kind: str
    description: str
    amount_cents: int
    usage_month: str
    calls: int = 0
    usage_cents: str = "0"
    grant_id: str | msgspec.UnsetType = msgspec.UNSET
    without_coupon: bool | msgspec.UnsetType = msgspec.UNSET


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

    `terms`, as `dump_terms` writes them: null, the usual ones, leaves the hash as it is without them.
    """
    content = (customer_id, currency, description, lines)
    return hashlib.sha256(_JSON.encode(content if terms is None else (*content, terms))).hexdigest()


def dump_lines(lines: Sequence[Line]) -> str:
    """Write lines as the ledger keeps them."""
    return _JSON.encode(lines).decode()


def load_lines(text: str) -> tuple[Line, ...]:
    """Read lines as the ledger keeps them.

    Raises:
        IntegrityError: they were altered by hand, and cannot be read.
    """
    try:
        return _LINES.decode(text)
    except msgspec.DecodeError as error:
        raise altered_text("lines", text, error) from None


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


def net_amounts(lines: Sequence[Line]) -> list[int]:
    """Return what each shown line charges where Stripe puts a tax or a coupon on what lines charge.

    Stripe adds no line below zero to an invoice with tax, and takes a coupon off charges alone. What plans
    and discounts take off is taken off usage, the minimum and fees, in this order; their own lines charge
    nothing then, and only say how much. Where that is not enough, and for all else below zero, lines stay as
    they are.
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
