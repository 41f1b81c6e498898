"""The invoice endpoints: create, change, read, and every transition between statuses."""

from dataclasses import replace
from typing import Any

from spell_billing.stripe_double.account import Account
from spell_billing.stripe_double.calls import Call, merged_metadata, within
from spell_billing.stripe_double.collection import Collection, Page
from spell_billing.stripe_double.discounts import with_discount
from spell_billing.stripe_double.errors import ApiError, not_editable, unsupported
from spell_billing.stripe_double.invoice_params import (
    PLAIN,
    automatic_tax,
    custom_fields,
    plain,
    refuse_unserved,
    with_due_date,
)
from spell_billing.stripe_double.lines import new_line, with_lines
from spell_billing.stripe_double.objects import Deleted, Invoice, InvoiceItem, Line
from spell_billing.stripe_double.payment import (
    attempt,
    collect_if_due,
    finalize,
    pay_out_of_band,
    void,
    with_draft_totals,
)
from spell_billing.stripe_double.render_invoice import line_json
from spell_billing.stripe_double.render_payments import INTENT_OF_PAYMENT, with_payments
from spell_billing.stripe_double.revisions import draft_revision, void_original

_AFTER_FINALIZATION = frozenset({"auto_advance", "expand", "metadata"})


def create_invoice(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices`."""
    params = call.params
    refuse_unserved(params)
    if params.get("from_invoice"):
        revision = draft_revision(account, params["from_invoice"])
        created = account.put_invoice(with_draft_totals(account, revision))
        account.emit("invoice.created", created)
        return created
    if "customer" not in params:
        raise ApiError(400, "Missing required param: customer.", code="parameter_missing", param="customer")
    customer = account.customer(params["customer"], param="customer")
    now = account.clock.unix()
    currency = str(params.get("currency") or customer.currency or "usd").lower()
    draft = Invoice(
        id=account.new_id("in"),
        customer=customer.id,
        customer_email=customer.email,
        customer_name=customer.name,
        created=now,
        currency=currency,
        metadata=merged_metadata({}, params.get("metadata")),
        test_clock=customer.test_clock,
        custom_fields=custom_fields(params) or (),
        **plain(params),
    )
    draft = with_due_date(draft, params)
    if params.get("pending_invoice_items_behavior") == "include":
        draft = replace(draft, lines=_take_pending(account, draft))
    draft = replace(with_discount(account, draft, params), automatic_tax=automatic_tax(draft, params))
    created = account.put_invoice(with_draft_totals(account, draft))
    account.emit("invoice.created", created)
    return created


def update_invoice(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}`."""
    invoice, params = account.invoices.get(call.object_id), call.params
    refuse_unserved(params)
    if params.get("discounts"):
        raise unsupported("discounts")
    if invoice.status != "draft" and not params.keys() <= _AFTER_FINALIZATION:
        raise not_editable("Finalized invoices can't be updated in this way.")
    changed = replace(
        invoice,
        metadata=merged_metadata(invoice.metadata, params.get("metadata")),
        custom_fields=invoice.custom_fields if (fields := custom_fields(params)) is None else fields,
        automatic_tax=automatic_tax(invoice, params),
        **plain(params),
    )
    if invoice.status == "draft":
        changed = with_draft_totals(account, changed)
    updated = account.put_invoice(changed)
    previous = {name: getattr(invoice, name) for name in PLAIN & params.keys()}
    if "metadata" in params:
        previous["metadata"] = dict(invoice.metadata)
    account.emit("invoice.updated", updated, previous)
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
    changed = replace(
        with_lines(invoice, new),
        metadata=merged_metadata(invoice.metadata, params.get("invoice_metadata")),
    )
    updated = account.put_invoice(with_draft_totals(account, changed))
    account.emit("invoice.updated", updated, {"total": invoice.total_cents})
    return updated


def finalize_invoice(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}/finalize`.

    The answer shows the invoice before its automatic collection, which follows at once or on `advance`.
    """
    invoice = account.invoices.get(call.object_id)
    if invoice.from_invoice is not None and invoice.status == "draft":
        void_original(account, invoice)
    finalized = finalize(account, invoice, auto_advance=call.params.get("auto_advance", invoice.auto_advance))
    if account.collect_at_once:
        collect_if_due(account, finalized)
    return finalized


def pay_invoice(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}/pay`."""
    invoice = account.invoices.get(call.object_id)
    if invoice.status == "paid":
        raise ApiError(400, "Invoice is already paid")
    if invoice.status not in {"open", "uncollectible"}:
        raise not_editable(f"This invoice is {invoice.status}: it can't be paid.")
    if call.params.get("paid_out_of_band"):
        return pay_out_of_band(account, invoice)
    paid, failure = attempt(account, invoice, automatic=False)
    if failure == "no_card":
        raise ApiError(400, "This customer has no default payment method.")
    if failure is not None:
        message = "Your card was declined."
        raise ApiError(402, message, kind="card_error", code="card_declined", decline_code=failure)
    return paid


def void_invoice(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}/void`."""
    invoice = account.invoices.get(call.object_id)
    if invoice.status not in {"open", "uncollectible"}:
        raise not_editable(f"You can only void open or uncollectible invoices; this one is {invoice.status}.")
    return void(account, invoice)


def mark_uncollectible(account: Account, call: Call) -> Invoice:
    """`POST /v1/invoices/{invoice}/mark_uncollectible`."""
    invoice = account.invoices.get(call.object_id)
    if invoice.status != "open":
        raise not_editable(f"You can only mark open invoices uncollectible; this one is {invoice.status}.")
    marked = account.put_invoice(
        replace(
            invoice,
            status="uncollectible",
            auto_advance=False,
            next_payment_attempt=None,
            uncollectible_at=account.clock.unix(),
        )
    )
    account.emit("invoice.marked_uncollectible", marked)
    return marked


def delete_invoice(account: Account, call: Call) -> Deleted:
    """`DELETE /v1/invoices/{invoice}`: drafts only; items that were pending are pending again."""
    invoice = account.invoices.get(call.object_id)
    if invoice.status != "draft":
        raise not_editable("You can only delete draft invoices; void a finalized one instead.")
    for item in account.items.owned(invoice.customer):
        if item.invoice == invoice.id:
            account.items.replace(replace(item, invoice=None))
    account.invoices.remove(invoice.id)
    account.emit("invoice.deleted", invoice)
    return Deleted(invoice.id, "invoice")


def retrieve_invoice(account: Account, call: Call) -> Invoice | dict[str, Any]:
    """`GET /v1/invoices/{invoice}`; `payments`, and the payment intent in it, only where expanded."""
    invoice = account.invoices.get(call.object_id)
    wanted = [each for each in call.params.get("expand", ()) if each.partition(".")[0] == "payments"]
    if not wanted:
        return invoice
    charges = account.charges.owned(invoice.customer)
    return with_payments(invoice, charges, expand_intent=INTENT_OF_PAYMENT in wanted)


def list_invoices(account: Account, call: Call) -> Page:
    """`GET /v1/invoices`, newest first."""
    params = call.params
    created, due = within(params.get("created")), within(params.get("due_date"))
    status, method = params.get("status"), params.get("collection_method")

    def keep(invoice: Invoice) -> bool:
        return (
            created(invoice.created)
            and (status is None or invoice.status == status)
            and (method is None or invoice.collection_method == method)
            and ("due_date" not in params or (invoice.due_date is not None and due(invoice.due_date)))
            and "subscription" not in params
            # What is on a test clock is listed by its customer only: https://docs.stripe.com/billing/testing
            and (invoice.test_clock is None or "customer" in params)
        )

    page = account.invoices.page(call.cursor, owner=params.get("customer"), keep=keep)
    if "data.payments" not in params.get("expand", ()):
        return page
    expanded = (
        with_payments(each, account.charges.owned(each.customer), expand_intent=False)
        for each in page.data
        if isinstance(each, Invoice)
    )
    return replace(page, data=tuple(expanded))


def list_lines(account: Account, call: Call) -> Page:
    """`GET /v1/invoices/{invoice}/lines`, in the order of the invoice."""
    invoice = account.invoices.get(call.object_id)
    lines: Collection[Line] = Collection("line_item", f"/v1/invoices/{invoice.id}/lines")
    for line in reversed(invoice.lines):
        lines.add(line)
    page = lines.page(call.cursor, owner=None, keep=lambda _line: True)
    data = tuple(line_json(line, invoice.id, invoice) for line in page.data if isinstance(line, Line))
    return replace(page, data=data)


def _take_pending(account: Account, invoice: Invoice) -> tuple[Line, ...]:
    taken: list[InvoiceItem] = [
        item
        for item in reversed(account.items.owned(invoice.customer))
        if item.invoice is None and item.line.currency == invoice.currency
    ]
    for item in taken:
        account.items.replace(replace(item, invoice=invoice.id))
    return tuple(item.line for item in taken)
