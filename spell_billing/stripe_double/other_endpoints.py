"""The endpoints beside invoices and credit notes: account, customers, items, charges, refunds, events."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from spell_billing.stripe_double.account import Account, Call, merged_metadata
from spell_billing.stripe_double.collection import Page
from spell_billing.stripe_double.drafts import new_line, with_lines
from spell_billing.stripe_double.errors import ApiError, missing, not_editable
from spell_billing.stripe_double.money_back import refund_charge
from spell_billing.stripe_double.objects import Charge, Customer, Event, InvoiceItem, Refund
from spell_billing.stripe_double.payment import with_draft_totals
from spell_billing.stripe_double.render import with_refunds

EVENT_RETENTION_SECONDS = 30 * 24 * 3600


def retrieve_account(account: Account, _call: Call) -> dict[str, Any]:
    """`GET /v1/account`."""
    return {
        "id": account.id,
        "object": "account",
        "business_profile": {"name": "Stripe double", "url": None},
        "business_type": "company",
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "controller": {"type": "account"},
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": "billing@example.com",
        "metadata": {},
        "payouts_enabled": True,
        "settings": {"dashboard": {"display_name": "Stripe double", "timezone": "Etc/UTC"}},
        "type": "standard",
    }


def create_customer(account: Account, call: Call) -> Customer:
    """`POST /v1/customers`."""
    params = call.params
    balance_cents = params.get("balance", 0)
    customer = account.customers.put(
        Customer(
            id=account.new_id("cus"),
            created=account.unix(),
            metadata=merged_metadata({}, params.get("metadata")),
            balances_cents={"usd": balance_cents} if balance_cents else {},
            next_invoice_sequence=params.get("next_invoice_sequence", 1),
            **{name: params.get(name) for name in ("email", "name", "description", "phone")},
        )
    )
    account.emit("customer.created", customer)
    return customer


def retrieve_customer(account: Account, call: Call) -> Customer:
    """`GET /v1/customers/{customer}`."""
    return account.customer(call.object_id)


def portal_session_json(
    session_id: str, created: int, customer_id: str, params: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a session of the customer portal, at the start of the flow that was asked for."""
    flow = params.get("flow_data")
    after = flow.get("after_completion", {"type": "portal_homepage"}) if flow else {}
    return {
        "id": session_id,
        "object": "billing_portal.session",
        "configuration": params.get("configuration", "bpc_1"),
        "created": created,
        "customer": customer_id,
        "customer_account": None,
        "flow": flow
        and {
            "after_completion": {"hosted_confirmation": None, "redirect": None, **after},
            "subscription_cancel": None,
            "subscription_update": None,
            "subscription_update_confirm": None,
            "type": flow["type"],
        },
        "livemode": False,
        "locale": params.get("locale"),
        "on_behalf_of": None,
        "return_url": params.get("return_url"),
        "url": f"https://billing.stripe.com/p/session/test_{session_id}",
    }


def create_portal_session(account: Account, call: Call) -> dict[str, Any]:
    """`POST /v1/billing_portal/sessions`. The page at its address is not served."""
    params = call.params
    if "customer" not in params:
        raise ApiError("Missing required param: customer.", code="parameter_missing", param="customer")
    customer = account.customer(params["customer"], param="customer")
    if not account.portal_saved and "configuration" not in params:
        raise ApiError(
            "No configuration provided and your test mode default configuration has not been created. "
            "Provide a configuration or create your default by saving your customer portal settings.",
        )
    session = portal_session_json(account.new_id("bps"), account.unix(), customer.id, params)
    account.portal_sessions.append(session)
    return session


def create_item(account: Account, call: Call) -> InvoiceItem:
    """`POST /v1/invoiceitems`: pending, or straight onto the draft that `invoice` names."""
    params = call.params
    invoice = account.invoices.get(params["invoice"], param="invoice") if "invoice" in params else None
    owner = params.get("customer") or (invoice.customer if invoice else None)
    if owner is None:
        raise ApiError("Missing required param: customer.", code="parameter_missing", param="customer")
    customer = account.customer(owner, param="customer")
    if invoice is not None and invoice.status != "draft":
        raise not_editable("Items can only be added to a draft invoice.")
    item_id = account.new_id("ii")
    line = new_line(account, params, item=item_id, currency=invoice.currency if invoice else None, param="")
    item = account.items.put(
        InvoiceItem(item_id, customer.id, account.unix(), line, invoice.id if invoice else None)
    )
    account.emit("invoiceitem.created", item)
    if invoice is not None:
        changed = with_draft_totals(account, with_lines(invoice, [line]))
        account.change(changed, "invoice.updated", {})
    return item


def list_items(account: Account, call: Call) -> Page:
    """`GET /v1/invoiceitems`, newest first."""
    pending = call.params.get("pending")

    def keep(item: InvoiceItem) -> bool:
        return pending is None or (item.invoice is None) == pending

    return account.items.page(call.params, keep, same=("invoice",))


def list_charges(account: Account, call: Call) -> Page:
    """`GET /v1/charges`, newest first; the last ten refunds of each only where they are expanded."""
    page = account.charges.page(call.params, same=("payment_intent",))
    if "data.refunds" not in call.params.get("expand", ()):
        return page
    refunds: defaultdict[str, list[Refund]] = defaultdict(list)
    for each in account.refunds:
        refunds[each.charge].insert(0, each)
    return replace(page, data=tuple(with_refunds(each, refunds[each.id]) for each in page.data))


def list_disputes(account: Account, call: Call) -> Page:
    """`GET /v1/disputes`, newest first."""
    return account.disputes.page(call.params, same=("charge", "payment_intent"))


def create_refund(account: Account, call: Call) -> Refund:
    """`POST /v1/refunds` on a charge or its payment intent."""
    params = call.params
    charge = _charge_of(account, params)
    left_cents = charge.amount_cents - charge.refunded_cents
    amount_cents = params.get("amount", left_cents)
    if left_cents == 0:
        message = f"Charge {charge.id} has already been refunded."
        raise ApiError(message, code="charge_already_refunded")
    if not 0 < amount_cents <= left_cents:
        message = f"Refund amount ({amount_cents}) is greater than unrefunded amount on charge ({left_cents})"
        raise ApiError(message, param="amount")
    return refund_charge(
        account, charge, amount_cents, params.get("reason"), merged_metadata({}, params.get("metadata"))
    )


def _charge_of(account: Account, params: dict[str, Any]) -> Charge:
    if "charge" in params:
        return account.charges.get(params["charge"], param="charge")
    intent = params.get("payment_intent")
    if intent is None:
        raise ApiError("Pass a charge or a payment_intent.", code="parameter_missing", param="charge")
    for charge in account.charges:
        if charge.payment_intent == intent:
            return charge
    raise missing("payment_intent", intent, param="payment_intent")


def list_events(account: Account, call: Call) -> Page:
    """`GET /v1/events`: the last 30 days, newest first."""
    params = call.params
    types = set(params.get("types", ())) | ({params["type"]} if "type" in params else set())
    oldest = account.unix() - EVENT_RETENTION_SECONDS

    def keep(event: Event) -> bool:
        wanted = not types or event.type in types or f"{event.type.rpartition('.')[0]}.*" in types
        return event.created >= oldest and wanted

    return account.events.page(params, keep)


def retrieve_event(account: Account, call: Call) -> Event:
    """`GET /v1/events/{id}`: for 30 days."""
    event = account.events.get(call.object_id)
    if event.created < account.unix() - EVENT_RETENTION_SECONDS:
        raise missing("event", call.object_id)
    return event
