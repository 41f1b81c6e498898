"""The credit note endpoints: what a finalized invoice is reduced by, and where the money goes."""

from dataclasses import replace
from typing import Any

from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.calls import Call, merged_metadata
from spell_billing.stripe_double.collection import Page
from spell_billing.stripe_double.errors import ApiError, unsupported
from spell_billing.stripe_double.money_back import paid_charge, refund_charge
from spell_billing.stripe_double.objects import CreditNote, Invoice
from spell_billing.stripe_double.payment import emit_paid


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
        charge = paid_charge(account, invoice.id)
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
