"""What becomes of a bill whose invoice is void at Stripe, and not by our own command."""

from collections.abc import Iterable
from dataclasses import replace

from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.rows import Bill, Change


def voided_by_a_person(bill: Bill, bills: Iterable[Bill], invoice_id: str) -> Change:
    """Return the change that parks the bill, unless a later generation took its place.

    Args:
        bill: Whose invoice is void.
        bills: All generations of the user's bill.
        invoice_id: The void invoice.
    """
    if any(other.user_id == bill.user_id and other.generation > bill.generation for other in bills):
        after = replace(bill, state=State.VOID, reason=Reason.VOIDED, stripe_invoice_id=invoice_id)
        return Change(bill, after, "superseded")
    after = replace(
        bill,
        state=State.PARKED,
        reason=Reason.VOIDED_AT_STRIPE,
        message=None,
        stripe_invoice_id=invoice_id,
    )
    return Change(bill, after, "parked")
