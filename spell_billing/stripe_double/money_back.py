"""Money that leaves again after it was paid: refunds, disputes, and bank debits that come back."""

from dataclasses import replace

from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.errors import DoubleError
from spell_billing.stripe_double.objects import Charge, Dispute, Invoice, Refund


def refund_charge(
    account: Account, charge: Charge, amount_cents: int, reason: str | None, metadata: dict[str, str]
) -> Refund:
    """Return an amount that is known to be left on the charge."""
    refunded = account.charges.put(replace(charge, refunded_cents=charge.refunded_cents + amount_cents))
    refund = account.refunds.put(
        Refund(
            id=account.new_id("re"),
            created=account.unix(),
            amount_cents=amount_cents,
            currency=charge.currency,
            charge=charge.id,
            payment_intent=charge.payment_intent,
            reason=reason,
            metadata=metadata,
        )
    )
    account.emit("refund.created", refund)
    account.emit("charge.refunded", refunded, {"amount_refunded": charge.refunded_cents})
    return refund


def dispute(
    account: Account, invoice_id: str, *, outcome: str, amount_cents: int | None, reason: str
) -> Dispute:
    """Take the money of a paid invoice's charge back, as its bank does: https://docs.stripe.com/disputes.

    The `outcome` is `open`, `won` (the money comes back) or `lost`; a second call closes an open dispute.
    By default, the amount is all of the charge.

    Raises:
        DoubleError: when the invoice was not paid by a charge.
    """
    charge = paid_charge(account, invoice_id)
    if charge is None:
        raise DoubleError(f"{invoice_id} was not paid by a charge.")
    found = next((each for each in account.disputes if each.charge == charge.id), None)
    if found is None:
        account.charges.put(replace(charge, disputed=True))
        found = account.disputes.put(
            Dispute(
                id=account.new_id("du"),
                created=account.unix(),
                amount_cents=charge.amount_cents if amount_cents is None else amount_cents,
                currency=charge.currency,
                charge=charge.id,
                payment_intent=charge.payment_intent,
                reason=reason,
            )
        )
        account.emit("charge.dispute.created", found)
        account.emit("charge.dispute.funds_withdrawn", found)
    if outcome == "open":
        return found
    closed = account.disputes.put(replace(found, status=outcome))
    if outcome == "won":
        account.emit("charge.dispute.funds_reinstated", closed)
    account.emit("charge.dispute.closed", closed, {"status": found.status})
    return closed


def reopen(account: Account, invoice: Invoice) -> Invoice:
    """Let a bank debit fail after the invoice was paid: it is open again, and nothing is paid on it."""
    charge = paid_charge(account, invoice.id)
    if charge is not None:
        account.charges.put(replace(charge, failure_code="debit_returned"))
    opened = account.change(
        invoice,
        "invoice.payment_failed",
        status="open",
        amount_paid_cents=0,
        paid_at=None,
        auto_advance=False,
        attempted=True,
    )
    account.emit("invoice.updated", opened, {"status": invoice.status})
    return opened


def paid_charge(account: Account, invoice_id: str) -> Charge | None:
    """Return the charge that paid an invoice; None when there is none."""
    of_invoice = (each for each in account.charges if each.invoice == invoice_id)
    return next((each for each in of_invoice if each.failure_code is None), None)
