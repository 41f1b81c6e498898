"""Money given back: refunds, credit notes, disputes, and bank debits that come back."""

from dataclasses import replace
from typing import Any

from spell_billing.stripe_double.account import Account, Call, merged_metadata
from spell_billing.stripe_double.collection import Page
from spell_billing.stripe_double.errors import ApiError, DoubleError, unsupported
from spell_billing.stripe_double.objects import Charge, CreditNote, Dispute, Invoice, Refund
from spell_billing.stripe_double.payment import emit_paid


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


def fail_refund(account: Account, invoice_id: str, *, reason: str) -> Refund:
    """Let the bank send back the newest refund of an invoice, which had succeeded for days.

    Its status becomes `failed`, and the charge counts as not refunded by it; a credit note that made it
    stands: https://docs.stripe.com/refunds#failed-refunds.

    Raises:
        DoubleError: when the invoice has no refund that succeeded.
    """
    charges = {each.id: each for each in account.charges if each.invoice == invoice_id}
    made = [each for each in account.refunds if each.charge in charges and each.status == "succeeded"]
    if not made:
        raise DoubleError(f"{invoice_id} has no refund that succeeded.")
    charge = charges[made[-1].charge]
    account.charges.put(replace(charge, refunded_cents=charge.refunded_cents - made[-1].amount_cents))
    failed = account.refunds.put(replace(made[-1], status="failed", failure_reason=reason))
    account.emit("refund.updated", failed, {"status": made[-1].status})
    account.emit("refund.failed", failed)
    account.emit("charge.refund.updated", failed, {"status": made[-1].status})
    return failed


def dispute(account: Account, invoice_id: str, *, outcome: str, amount_cents: int | None) -> Dispute:
    """Take the money of a paid invoice's charge back, as its bank does: https://docs.stripe.com/disputes.

    The `outcome` is `open`, `won` (the money comes back) or `lost`; a second call closes an open dispute.
    By default, the amount is all of the charge.

    Raises:
        DoubleError: when the invoice was not paid by a charge.
    """
    charge = _paid_charge(account, invoice_id)
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
    charge = _paid_charge(account, invoice.id)
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


def _paid_charge(account: Account, invoice_id: str) -> Charge | None:
    """Return the charge that paid an invoice; None when there is none."""
    of_invoice = (each for each in account.charges if each.invoice == invoice_id)
    return next((each for each in of_invoice if each.failure_code is None), None)


def create_credit_note(account: Account, call: Call) -> CreditNote:
    """`POST /v1/credit_notes`.

    On an open invoice the amount reduces what is left to pay; on a paid one it must be shared out as a
    refund, a credit to the customer's balance, or money returned outside of Stripe.
    """
    params = call.params
    invoice = account.invoices.get(params["invoice"], param="invoice")
    if invoice.status not in {"open", "paid", "uncollectible"}:
        raise ApiError(f"Credit notes need a finalized invoice; this one is {invoice.status}.")
    for name in ("lines", "refunds", "shipping_cost"):
        if params.get(name):
            raise unsupported(name)
    if "amount" not in params:
        raise ApiError("Pass an amount.", code="parameter_missing", param="amount")
    amount_cents: int = params["amount"]
    credited_cents = invoice.pre_payment_credit_cents + invoice.post_payment_credit_cents
    if not 0 < amount_cents <= invoice.total_cents - credited_cents:
        raise ApiError("The amount must be above zero and within what is not credited yet.", param="amount")
    note = CreditNote(
        id=account.new_id("cn"),
        created=account.unix(),
        customer=invoice.customer,
        invoice=invoice.id,
        number=f"{invoice.number}-CN-{len(account.credit_notes) + 1:02}",
        amount_cents=amount_cents,
        currency=invoice.currency,
        pre_payment_cents=0 if invoice.status == "paid" else amount_cents,
        memo=params.get("memo"),
        reason=params.get("reason"),
        metadata=merged_metadata({}, params.get("metadata")),
    )
    if invoice.status == "paid":
        note = _share_out(account, invoice, note, params)
    else:
        _reduce(account, invoice, amount_cents)
    account.credit_notes.put(note)
    account.emit("credit_note.created", note)
    return note


def void_credit_note(account: Account, invoice_id: str) -> None:
    """Void the newest credit note of an open invoice, as a person does: what it took off is due again.

    Raises:
        DoubleError: when there is none; Stripe voids none of a paid invoice.
    """
    invoice = account.invoices.get(invoice_id)
    issued = [each for each in account.credit_notes if each.invoice == invoice_id and each.status == "issued"]
    if invoice.status != "open" or not issued:
        raise DoubleError(f"{invoice_id} is not open, or has no credit note.")
    note = issued[-1]
    account.change(
        invoice,
        "invoice.updated",
        {"amount_remaining": invoice.amount_remaining_cents},
        pre_payment_credit_cents=invoice.pre_payment_credit_cents - note.amount_cents,
    )
    account.emit(
        "credit_note.voided",
        account.credit_notes.put(replace(note, status="void", voided_at=account.unix())),
    )


def list_credit_notes(account: Account, call: Call) -> Page:
    """`GET /v1/credit_notes`, newest first."""
    return account.credit_notes.page(call.params, same=("invoice",))


def _reduce(account: Account, invoice: Invoice, amount_cents: int) -> None:
    if amount_cents > invoice.amount_remaining_cents:
        raise ApiError("The amount is more than is left to pay.", param="amount")
    reduced = replace(invoice, pre_payment_credit_cents=invoice.pre_payment_credit_cents + amount_cents)
    is_paid = reduced.amount_remaining_cents == 0
    if is_paid:
        reduced = replace(reduced, status="paid", auto_advance=False, paid_at=account.unix())
    account.change(reduced, "invoice.updated", {"amount_remaining": invoice.amount_remaining_cents})
    if is_paid:
        emit_paid(account, reduced)


def _share_out(account: Account, invoice: Invoice, note: CreditNote, params: dict[str, Any]) -> CreditNote:
    credit_cents = params.get("credit_amount", 0)
    refund_cents = params.get("refund_amount", 0)
    outside_cents = params.get("out_of_band_amount", 0)
    if credit_cents + refund_cents + outside_cents != note.amount_cents:
        raise ApiError(
            "The sum of credit_amount, refund_amount and out_of_band_amount must equal the amount of the"
            " credit note."
        )
    refunds: tuple[str, ...] = ()
    if refund_cents:
        charge = _paid_charge(account, invoice.id)
        if charge is None or refund_cents > charge.amount_cents - charge.refunded_cents:
            raise ApiError("There is no charge with that amount left to refund.", param="refund_amount")
        refunds = (refund_charge(account, charge, refund_cents, None, {}).id,)
    if credit_cents:
        account.shift_balance(invoice.customer, invoice.currency, -credit_cents)
    account.change(
        invoice,
        "invoice.updated",
        {"post_payment_credit_notes_amount": invoice.post_payment_credit_cents},
        post_payment_credit_cents=invoice.post_payment_credit_cents + note.amount_cents,
    )
    return replace(note, credit_cents=credit_cents, out_of_band_cents=outside_cents, refunds=refunds)
