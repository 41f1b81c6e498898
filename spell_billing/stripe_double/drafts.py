"""Drafts from request parameters: what an invoice keeps, what is refused, when it is due, and its lines."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from spell_billing.stripe_double.account import Account, merged_metadata
from spell_billing.stripe_double.adjustments import refuse_negative
from spell_billing.stripe_double.currencies import largest_cents
from spell_billing.stripe_double.errors import ApiError, missing, unsupported
from spell_billing.stripe_double.objects import Invoice, Line
from spell_billing.stripe_double.schema import MAX_LINES

_UNSERVED = (
    *("application_fee_amount", "automatically_finalizes_at", "customer_account", "default_tax_rates"),
    *("on_behalf_of", "shipping_cost", "subscription", "transfer_data"),
)
PLAIN = frozenset({"auto_advance", "collection_method", "description", "due_date"}) | frozenset(
    {"effective_at", "footer", "number", "statement_descriptor"}
)
"""The parameters that an invoice keeps as they are."""


def refuse_unserved(params: dict[str, Any]) -> None:
    """Refuse what Stripe takes and the double does not."""
    for name in _UNSERVED:
        if params.get(name):
            raise unsupported(name)


def changed(invoice: Invoice, params: dict[str, Any]) -> Invoice:
    """Return an invoice with what the parameters say of it; an empty text is none.

    Raises:
        ApiError: when tax is to be computed for negative lines.
    """
    changes: dict[str, Any] = {name: params[name] for name in PLAIN & params.keys()}
    changes = {name: None if value == "" else value for name, value in changes.items()}
    if params.get("custom_fields") is not None:
        fields = params["custom_fields"] or ()
        changes["custom_fields"] = tuple((each["name"], each["value"]) for each in fields)
    if "automatic_tax" in params:
        if "liability" in params["automatic_tax"]:
            raise unsupported("automatic_tax")
        changes["automatic_tax"] = bool(params["automatic_tax"]["enabled"])
        if changes["automatic_tax"]:
            refuse_negative(invoice.lines)
    return replace(invoice, metadata=merged_metadata(invoice.metadata, params.get("metadata")), **changes)


def with_due_date(draft: Invoice, params: dict[str, Any]) -> Invoice:
    """Return a draft that is due when the parameters say.

    Raises:
        ApiError: without a date for an invoice that is sent, or with one for another, as
            https://docs.stripe.com/api/invoices/create says of `days_until_due`, and with days below zero.
    """
    if draft.collection_method == "send_invoice":
        if not {"days_until_due", "due_date"} & params.keys():
            raise ApiError(
                "If invoice is `collection_method`=`send_invoice`, specify `due_date` or `days_until_due`."
            )
    elif "days_until_due" in params:
        message = "You may only set `days_until_due` where `collection_method` is `send_invoice`."
        raise ApiError(message, param="days_until_due")
    if "days_until_due" not in params:
        return draft
    if params["days_until_due"] < 0:
        raise ApiError("The due date must be in the future.", param="days_until_due")
    return replace(draft, due_date=draft.created + params["days_until_due"] * 24 * 3600)


_UNSERVED_OF_LINES = (
    *("discounts", "invoice_item", "price_data", "quantity", "quantity_decimal", "subscription"),
    *("tax_amounts", "tax_rates", "unit_amount_decimal"),
)


def new_line(
    account: Account, params: Mapping[str, Any], *, item: str, currency: str | None, param: str
) -> Line:
    """Make a line, of an invoice item's id, from the parameters of that item or of one entry of `lines`.

    `currency` is the invoice's, None for an item without one; `param` is where the parameters stand in the
    request, `lines[0]`, or empty at the top.

    Raises:
        ApiError: for an amount that is missing or too large, another currency than the invoice's, and for
            what the double does not serve.
    """

    def at(*names: str) -> str:
        head, *rest = (param, *names) if param else names
        return head + "".join(f"[{name}]" for name in rest)

    for name in _UNSERVED_OF_LINES:
        if params.get(name):
            raise unsupported(at(name))
    if "pricing" in params:
        raise missing("price", str(params["pricing"].get("price")), param=at("pricing", "price"))
    line_currency = str(params.get("currency") or currency or "usd").lower()
    if currency is not None and line_currency != currency:
        raise ApiError(
            f"The currency of the item ({line_currency}) differs from the invoice's ({currency}).",
            param=at("currency"),
        )
    if "amount" not in params:
        raise ApiError("Pass an amount.", code="parameter_missing", param=at("amount"))
    amount_cents: int = params["amount"]
    largest = largest_cents(line_currency)
    if abs(amount_cents) > largest:
        message = f"Amount must be no more than {largest}."
        raise ApiError(message, code="amount_too_large", param=at("amount"))
    now = account.unix()
    period = params.get("period", {"start": now, "end": now})
    if period["end"] < period["start"]:
        raise ApiError("The period's end precedes its start.", param=at("period", "end"))
    return Line(
        id=account.new_id("il"),
        item=item,
        amount_cents=amount_cents,
        currency=line_currency,
        description=params.get("description"),
        metadata=params.get("metadata") or {},
        period_start=period["start"],
        period_end=period["end"],
        # "Defaults to false for prorations or negative line items, and true for all other invoice items."
        discountable=params.get("discountable", amount_cents >= 0),
    )


def with_lines(invoice: Invoice, new: Sequence[Line]) -> Invoice:
    """Return the invoice with more lines at its end.

    Raises:
        ApiError: when it would have more than 250: https://docs.stripe.com/api/invoiceitems/create; for a
            negative one where tax is computed.
    """
    if invoice.automatic_tax:
        refuse_negative(new)
    lines = (*invoice.lines, *new)
    if len(lines) > MAX_LINES:
        raise ApiError(f"An invoice has at most {MAX_LINES} line items.", param="lines")
    return replace(invoice, lines=lines)
