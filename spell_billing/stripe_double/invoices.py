"""The invoice endpoints: create, change, read, and every transition between statuses."""

from dataclasses import replace
from typing import Any

from spell_billing.stripe_double.account import Account, Call, merged_metadata
from spell_billing.stripe_double.adjustments import with_discount
from spell_billing.stripe_double.collection import Collection, Page, within
from spell_billing.stripe_double.drafts import (
    PLAIN,
    changed,
    new_line,
    refuse_unserved,
    with_due_date,
    with_lines,
)
from spell_billing.stripe_double.errors import ApiError, not_editable, unsupported
from spell_billing.stripe_double.objects import Deleted, Invoice, Line
from spell_billing.stripe_double.payment import (
    attempt,
    collect_if_due,
    finalize,
    pay_out_of_band,
    void,
    with_draft_totals,
)
from spell_billing.stripe_double.render_invoice import line_json, with_payments

_AFTER_FINALIZATION = frozenset({"auto_advance", "expand", "metadata"})
_INTENT_OF_PAYMENT = "payments.data.payment.payment_intent"
_COLLECTABLE = frozenset({"open", "uncollectible"})
_REVISED = (
    *("customer", "customer_email", "customer_name", "currency", "description", "footer", "metadata"),
    *("collection_method", "due_date", "custom_fields", "automatic_tax", "discount", "discount_percent"),
    "test_clock",
)
"""What a revision takes over from its original."""


def create_invoice(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices`."""
    params = call.params
    refuse_unserved(params)
    if params.get("from_invoice"):
        return account.change(_revision(account, params["from_invoice"]), "invoice.created")
    if "customer" not in params:
        raise ApiError("Missing required param: customer.", code="parameter_missing", param="customer")
    customer = account.customer(params["customer"], param="customer")
    currency = str(params.get("currency") or customer.currency or "usd").lower()
    draft = Invoice(
        id=account.new_id("in"),
        customer=customer.id,
        customer_email=customer.email,
        customer_name=customer.name,
        created=account.unix(),
        currency=currency,
        test_clock=customer.test_clock,
    )
    draft = with_due_date(changed(draft, params), params)
    if params.get("pending_invoice_items_behavior") == "include":
        draft = with_lines(draft, _take_pending(account, draft))
    draft = with_discount(account, draft, params)
    return account.change(with_draft_totals(account, draft), "invoice.created")


def update_invoice(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}`."""
    invoice, params = account.invoices.get(call.object_id), call.params
    refuse_unserved(params)
    if params.get("discounts"):
        raise unsupported("discounts")
    if invoice.status != "draft" and not params.keys() <= _AFTER_FINALIZATION:
        raise not_editable("Finalized invoices can't be updated in this way.")
    new = changed(invoice, params)
    if invoice.status == "draft":
        new = with_draft_totals(account, new)
    previous = {name: getattr(invoice, name) for name in (PLAIN | {"metadata"}) & params.keys()}
    updated = account.change(new, "invoice.updated", previous)
    if account.collect_at_once:
        collect_if_due(account, updated)
    return updated


def add_lines(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}/add_lines`: all of the lines or none."""
    invoice, params = account.invoices.get(call.object_id), call.params
    if invoice.status != "draft":
        raise not_editable("This invoice is no longer a draft: lines can't be added to it.")
    new = [
        new_line(
            account, each, item=account.new_id("ii"), currency=invoice.currency, param=f"lines[{position}]"
        )
        for position, each in enumerate(params["lines"])
    ]
    metadata = merged_metadata(invoice.metadata, params.get("invoice_metadata"))
    longer = with_draft_totals(account, replace(with_lines(invoice, new), metadata=metadata))
    return account.change(longer, "invoice.updated", {"total": invoice.total_cents})


def finalize_invoice(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}/finalize`.

    The answer shows the invoice before its automatic collection, which follows at once or on `advance`.
    """
    invoice = account.invoices.get(call.object_id)
    if invoice.from_invoice is not None and invoice.status == "draft":
        original = account.invoices.get(invoice.from_invoice)
        if original.status not in _COLLECTABLE:
            raise ApiError(f"The original of this revision is {original.status} by now.")
        void(account, original, revision=invoice.id)
    finalized = finalize(account, invoice, auto_advance=call.params.get("auto_advance", invoice.auto_advance))
    if account.collect_at_once:
        collect_if_due(account, finalized)
    return finalized


def pay_invoice(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}/pay`."""
    invoice = account.invoices.get(call.object_id)
    if invoice.status == "paid":
        raise ApiError("Invoice is already paid")
    if invoice.status not in _COLLECTABLE:
        raise not_editable(f"This invoice is {invoice.status}: it can't be paid.")
    if call.params.get("paid_out_of_band"):
        return pay_out_of_band(account, invoice)
    paid, failure = attempt(account, invoice, automatic=False)
    if failure == "no_card":
        raise ApiError("This customer has no default payment method.")
    if failure is not None:
        message = "Your card was declined."
        raise ApiError(message, kind="card_error", code="card_declined", decline_code=failure, status=402)
    return paid


def void_invoice(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}/void`."""
    invoice = account.invoices.get(call.object_id)
    if invoice.status not in _COLLECTABLE:
        raise not_editable(f"You can only void open or uncollectible invoices; this one is {invoice.status}.")
    return void(account, invoice)


def mark_uncollectible(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}/mark_uncollectible`."""
    invoice = account.invoices.get(call.object_id)
    if invoice.status != "open":
        raise not_editable(f"You can only mark open invoices uncollectible; this one is {invoice.status}.")
    return account.change(
        invoice,
        "invoice.marked_uncollectible",
        status="uncollectible",
        auto_advance=False,
        next_payment_attempt=None,
        uncollectible_at=account.unix(),
    )


def delete_invoice(account: Account, call: Call) -> Deleted:
    """`DELETE /v1/invoices/{invoice}`: drafts only; items that were pending are pending again."""
    invoice = account.invoices.get(call.object_id)
    if invoice.status != "draft":
        raise not_editable("You can only delete draft invoices; void a finalized one instead.")
    for item in account.items.of_customer(invoice.customer):
        if item.invoice == invoice.id:
            account.items.put(replace(item, invoice=None))
    account.invoices.remove(invoice.id)
    account.emit("invoice.deleted", invoice)
    return Deleted(invoice.id, "invoice")


def retrieve_invoice(account: Account, call: Call) -> Invoice | dict[str, Any]:
    """`GET /v1/invoices/{invoice}`; `payments`, and the payment intent in it, only where expanded."""
    invoice = account.invoices.get(call.object_id)
    wanted = [each for each in call.params.get("expand", ()) if each.partition(".")[0] == "payments"]
    if not wanted:
        return invoice
    charges = account.charges.of_customer(invoice.customer)
    return with_payments(invoice, charges, expand_intent=_INTENT_OF_PAYMENT in wanted)


def list_invoices(account: Account, call: Call) -> Page:
    """`GET /v1/invoices`, newest first."""
    params = call.params
    due = within(params.get("due_date"))

    def keep(invoice: Invoice) -> bool:
        return (
            ("due_date" not in params or (invoice.due_date is not None and due(invoice.due_date)))
            and "subscription" not in params
            # What is on a test clock is listed by its customer only: https://docs.stripe.com/billing/testing
            and (invoice.test_clock is None or "customer" in params)
        )

    page = account.invoices.page(params, keep, same=("status", "collection_method"))
    if "data.payments" not in params.get("expand", ()):
        return page
    charges = account.charges.of_customer
    expanded = (with_payments(each, charges(each.customer), expand_intent=False) for each in page.data)
    return replace(page, data=tuple(expanded))


def list_lines(account: Account, call: Call) -> Page:
    """`GET /v1/invoices/{invoice}/lines`, in the order of the invoice."""
    invoice = account.invoices.get(call.object_id)
    lines: Collection[Line] = Collection("line_item", f"/v1/invoices/{invoice.id}/lines")
    for line in reversed(invoice.lines):
        lines.put(line)
    page = lines.page(call.params)
    return replace(page, data=tuple(line_json(line, invoice) for line in page.data))


def _take_pending(account: Account, invoice: Invoice) -> tuple[Line, ...]:
    taken = [
        account.items.put(replace(item, invoice=invoice.id))
        for item in reversed(account.items.of_customer(invoice.customer))
        if item.invoice is None and item.line.currency == invoice.currency
    ]
    return tuple(item.line for item in taken)


def _revision(account: Account, source: dict[str, Any]) -> Invoice:
    """Return a new draft with the lines of an invoice, linked to it, as the dashboard makes for an edit.

    See https://docs.stripe.com/invoicing/invoice-edits.
    """
    original = account.invoices.get(source["invoice"], param="from_invoice[invoice]")
    if original.status not in _COLLECTABLE:
        raise ApiError(f"You can't revise an invoice that is {original.status}.", param="from_invoice")
    lines = (replace(line, id=account.new_id("il"), item=account.new_id("ii")) for line in original.lines)
    draft = Invoice(
        id=account.new_id("in"),
        created=account.unix(),
        lines=tuple(lines),
        from_invoice=original.id,
        **{name: getattr(original, name) for name in _REVISED},
    )
    return with_draft_totals(account, draft)
