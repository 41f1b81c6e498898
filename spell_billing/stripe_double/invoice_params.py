"""The parameters of an invoice: what is kept as it is, what is refused, and when it is due."""

from dataclasses import replace
from typing import Any

from spell_billing.stripe_double.adjustments import refuse_negative
from spell_billing.stripe_double.calls import merged_metadata
from spell_billing.stripe_double.errors import ApiError, unsupported
from spell_billing.stripe_double.objects import Invoice

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
