"""The terms of a bill, frozen with it: how it is collected, and what its invoice says beside the lines."""

import msgspec

from spell_billing.core.errors import altered_text
from spell_billing.core.outcomes import Reason

CHARGE, SEND = "charge", "send"
DEFAULT_NET_DAYS = 30
LONGEST_NET_DAYS = 365
LONGEST_PO_NUMBER = 140
LONGEST_FOOTER = 5000
"""Characters of a custom field's value, and of a footer, at Stripe: https://docs.stripe.com/api/invoices/create."""

STRIPE, CARRY, FORGIVE = "stripe", "carry", "forgive"
"""What becomes of a total below the minimum: it is sent on, left for the next invoice, or given up."""
USUAL_MINIMUM_CENTS = 50

OFF, ON, ENFORCED = "off", "on", "enforced"
LEFT_OUT = "left_out"
"""Tax is asked for, but the bill has a negative line, and Stripe computes no tax on an invoice with one."""
NEGATIVE_LINE, NOT_PLACED = "negative_line", "not_placed"
"""Why an invoice is without the tax that is asked for."""


class Policy(msgspec.Struct, frozen=True):
    """What the settings say of all bills that are drafted.

    `automatic_tax`: `off`, `on` (a customer whom Stripe cannot place is billed without tax), or `enforced`
    (is not billed then). `discounts`: a customer's coupon at Stripe applies. `fees_in_advance`: plans' fees
    of the month after the bill's are charged, too.
    `small_amounts`: what becomes of a total below `minimum_cents`.
    """

    automatic_tax: str = OFF
    discounts: bool = False
    fees_in_advance: bool = False
    small_amounts: str = STRIPE
    minimum_cents: int = USUAL_MINIMUM_CENTS

    @property
    def needs_charges(self) -> bool:
        """Whether Stripe computes tax or a discount, which takes no line below zero."""
        return self.automatic_tax != OFF or self.discounts


USUAL_POLICY = Policy()


class Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a bill's requests depend on beside its lines.

    `collection`: Stripe charges the saved payment method, or sends the invoice by mail, due after `net_days`.
    `tax` and `discounts` are as the policy said when the bill was drafted; tax may be `left_out`.
    """

    collection: str = CHARGE
    net_days: int | None = None
    po_number: str | None = None
    footer: str | None = None
    tax: str = OFF
    discounts: bool = False

    @property
    def is_taxed(self) -> bool:
        """Whether Stripe is asked to compute tax."""
        return self.tax in {ON, ENFORCED}

    @property
    def is_sent(self) -> bool:
        """Whether the customer gets the invoice by mail and pays it without a saved payment method."""
        return self.collection == SEND


USUAL_TERMS = Terms()


def terms_of(
    collection: str | None, net_days: str | None, po_number: str | None, footer: str | None
) -> Terms | Reason:
    """Read an account's columns, as text or null: the terms, or why the account cannot be billed."""
    if collection is net_days is po_number is footer is None:
        return USUAL_TERMS
    how = (collection or CHARGE).lower()
    if how not in {CHARGE, SEND}:
        return Reason.UNKNOWN_COLLECTION
    if len(po_number or "") > LONGEST_PO_NUMBER or len(footer or "") > LONGEST_FOOTER:
        return Reason.TEXT_TOO_LONG
    days = None
    if how == SEND:
        days = DEFAULT_NET_DAYS if net_days is None else _whole(net_days)
        if days is None or not 0 <= days <= LONGEST_NET_DAYS:
            return Reason.INVALID_NET_DAYS
    return Terms(how, days, po_number, footer)


def under(policy: Policy, terms: Terms, *, has_negative_line: bool) -> Terms:
    """Return an account's terms as the policy completes them for one bill."""
    left_out = has_negative_line and policy.automatic_tax != OFF
    tax = LEFT_OUT if left_out else policy.automatic_tax
    return msgspec.structs.replace(terms, tax=tax, discounts=policy.discounts)


def dump_terms(terms: Terms) -> str | None:
    """Write terms as the ledger keeps them: null for the usual ones."""
    return None if terms == USUAL_TERMS else msgspec.json.encode(terms).decode()


def load_terms(text: str | None) -> Terms:
    """Read terms as the ledger keeps them.

    Raises:
        IntegrityError: they were altered by hand, and cannot be read.
    """
    try:
        return USUAL_TERMS if text is None else msgspec.json.decode(text, type=Terms)
    except msgspec.DecodeError as error:
        raise altered_text("terms", str(text), error) from None


def _whole(text: str) -> int | None:
    """Return a number of days, which a numeric column may write as `30.00`; None for anything else."""
    whole, _, fraction = text.partition(".")
    if fraction.strip("0") or not whole.isascii() or not whole.isdigit() or len(whole) > len("365"):
        return None
    return int(whole)
