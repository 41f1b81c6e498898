"""The state of the one Stripe account: its objects, its events, and the invariants they must keep."""

import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from spell_billing.stripe_double.collection import Collection
from spell_billing.stripe_double.objects import (
    FINALIZED,
    Charge,
    CreditNote,
    Customer,
    Dispute,
    Event,
    Invoice,
    InvoiceItem,
    Refund,
    Snapshot,
    Violation,
)

ACCOUNT_ID = "acct_1StripeDouble"

BILLING_KEY = "spell_billing_key"
"""The metadata key whose value may stand on one finalized invoice only."""


class Account:
    """One Stripe account in memory.

    Attributes:
        shift_seconds: How far its clock, which drives `created`, event retention and the expiry of
            idempotency keys, is ahead of `now`.
        request: The id and the idempotency key of the request in whose name events are made.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        *,
        account_id: str = ACCOUNT_ID,
        collect_at_once: bool = True,
        auto_create_customers: bool = False,
        pages_at: str | None = None,
    ) -> None:
        self.id = account_id
        self.pages_at = pages_at
        self.collect_at_once = collect_at_once
        self.auto_create_customers = auto_create_customers
        self.portal_saved = True
        self.portal_sessions: list[Mapping[str, Any]] = []
        self.shift_seconds = 0
        self.request: tuple[str | None, str | None] = (None, None)
        self.customers: Collection[Customer] = Collection("customer", "/v1/customers")
        self.invoices: Collection[Invoice] = Collection("invoice", "/v1/invoices")
        self.items: Collection[InvoiceItem] = Collection("invoiceitem", "/v1/invoiceitems")
        self.credit_notes: Collection[CreditNote] = Collection("credit note", "/v1/credit_notes")
        self.charges: Collection[Charge] = Collection("charge", "/v1/charges")
        self.refunds: Collection[Refund] = Collection("refund", "/v1/refunds")
        self.disputes: Collection[Dispute] = Collection("dispute", "/v1/disputes")
        self.events: Collection[Event] = Collection("event", "/v1/events")
        self.violations: list[Violation] = []
        self.salt = secrets.token_hex(4)
        self.last_serial = 0
        self._now = now
        self._billed: defaultdict[str, set[str]] = defaultdict(set)

    def unix(self) -> int:
        """Return the account's time in Unix seconds."""
        return int(self._now().timestamp()) + self.shift_seconds

    def new_id(self, prefix: str) -> str:
        """Return an id that no other object of this or another double has."""
        self.last_serial += 1
        return f"{prefix}_1{self.salt}{self.last_serial:010}"

    def emit(self, kind: str, snapshot: Snapshot, previous: Mapping[str, object] | None = None) -> None:
        """Record an event of the object as it is now."""
        self.events.put(Event(self.new_id("evt"), kind, self.unix(), snapshot, previous, *self.request))

    def customer(self, customer_id: str, *, param: str | None = None) -> Customer:
        """Return a customer; make an unknown one up when the double is told to.

        Raises:
            ApiError: `resource_missing`.
        """
        known = self.customers.find(customer_id)
        if known is None and self.auto_create_customers and customer_id.startswith("cus_"):
            return self.customers.put(Customer(id=customer_id, created=self.unix()))
        return self.customers.get(customer_id, param=param)

    def shift_balance(self, customer_id: str, currency: str, cents: int) -> Customer:
        """Add to what a customer owes (negative: to their credit)."""
        customer = self.customers.get(customer_id)
        balances = {**customer.balances_cents, currency: customer.balances_cents.get(currency, 0) + cents}
        return self.customers.put(
            replace(customer, balances_cents=balances, currency=customer.currency or currency)
        )

    def put_invoice(self, invoice: Invoice) -> Invoice:
        """Store an invoice's new state, and flag a second finalized one with its billing key."""
        if self.pages_at is not None and invoice.finalized_at is not None:
            page = f"{self.pages_at}/i/{invoice.id}"
            addresses = {"hosted_invoice_url": page, "invoice_pdf": f"{page}/pdf"}
            invoice = replace(invoice, shown={**addresses, **invoice.shown})
        self.invoices.put(invoice)
        key = invoice.metadata.get(BILLING_KEY)
        if key is not None and invoice.status in FINALIZED:
            self._billed[key].add(invoice.id)
            still = tuple(sorted(each for each in self._billed[key] if self._is_billed(each, key)))
            violation = Violation(key, still)
            if len(still) > 1 and violation not in self.violations:
                self.violations.append(violation)
        return invoice

    def _is_billed(self, invoice_id: str, key: str) -> bool:
        found = self.invoices.find(invoice_id)
        return found is not None and found.status in FINALIZED and found.metadata.get(BILLING_KEY) == key

    def change(
        self, invoice: Invoice, event: str, previous: Mapping[str, object] | None = None, **changes: Any
    ) -> Invoice:
        """Store an invoice with fields changed, and emit the event of the change."""
        changed = self.put_invoice(replace(invoice, **changes))
        self.emit(event, changed, previous)
        return changed


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets: the id in the path (empty when there is none) and the typed parameters."""

    object_id: str
    params: dict[str, Any]


def locked_by(account: Account, call: Call) -> frozenset[str]:
    """Return the ids of the objects that a write locks: the one in its path, and its customer.

    A write on one of an invoice's objects runs into a write on another object of the same customer:
    https://docs.stripe.com/rate-limits#object-lock-timeouts speaks of "the same or related objects".
    """
    invoice = account.invoices.find(call.object_id or str(call.params.get("invoice", "")))
    customer = call.params.get("customer") if invoice is None else invoice.customer
    return frozenset(each for each in (call.object_id, customer) if each)


def merged_metadata(current: Any, change: Any) -> dict[str, str]:
    """Apply a metadata parameter: keys merge, an empty value unsets a key, an empty string unsets all."""
    if change == "":
        return {}
    merged = {**current, **(change or {})}
    return {key: value for key, value in merged.items() if value != ""}
