"""The parameters of an invoice: what is kept as it is, what is refused, and when it is due."""

from dataclasses import replace
from typing import Any

from spell_billing.stripe_double.errors import ApiError, unsupported
from spell_billing.stripe_double.objects import Invoice
from spell_billing.stripe_double.taxes import refuse_negative

_UNSERVED = frozenset(
    {
        "application_fee_amount",
        "automatically_finalizes_at",
        "customer_account",
        "default_tax_rates",
        "on_behalf_of",
        "shipping_cost",
        "subscription",
        "transfer_data",
    }
)
PLAIN = frozenset(
    {
        "auto_advance",
        "collection_method",
        "description",
        "due_date",
        "effective_at",
        "footer",
        "number",
        "statement_descriptor",
    }
)


def refuse_unserved(params: dict[str, Any]) -> None:
    """Refuse what Stripe takes and the double does not."""
    for name in sorted(_UNSERVED & params.keys()):
        if params[name]:
            raise unsupported(name)


def automatic_tax(invoice: Invoice, params: dict[str, Any]) -> bool:
    """Return whether tax is computed for an invoice, by what the request says.

    Raises:
        ApiError: when it has a negative line.
    """
    if "automatic_tax" not in params:
        return invoice.automatic_tax
    if "liability" in params["automatic_tax"]:
        raise unsupported("automatic_tax")
    enabled = bool(params["automatic_tax"]["enabled"])
    if enabled:
        refuse_negative(invoice.lines)
    return enabled


def custom_fields(params: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """Return the fields that an invoice shows, or None where the request says nothing of them."""
    given = params.get("custom_fields")
    return None if given is None else tuple((each["name"], each["value"]) for each in given or ())


def plain(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that an invoice keeps as they are; an empty text is none."""
    return {name: params[name] if params[name] != "" else None for name in PLAIN & params.keys()}


def with_due_date(draft: Invoice, params: dict[str, Any]) -> Invoice:
    """Return a draft that is due when the parameters say.

    Raises:
        ApiError: without a date for an invoice that is sent, or with one for another, as
            https://docs.stripe.com/api/invoices/create says of `days_until_due`, and with days below zero.
    """
    if draft.collection_method == "send_invoice":
        if not {"days_until_due", "due_date"} & params.keys():
            raise ApiError(
                400,
                "If invoice is `collection_method`=`send_invoice`, specify `due_date` or `days_until_due`.",
            )
    elif "days_until_due" in params:
        message = "You may only set `days_until_due` where `collection_method` is `send_invoice`."
        raise ApiError(400, message, param="days_until_due")
    if "days_until_due" not in params:
        return draft
    if params["days_until_due"] < 0:
        raise ApiError(400, "The due date must be in the future.", param="days_until_due")
    return replace(draft, due_date=draft.created + params["days_until_due"] * 24 * 3600)
