"""The state of the one Stripe account: its objects, its events, and the invariants they must keep."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from spell_billing.stripe_double.clock import Clock
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
    Violation,
)

ACCOUNT_ID = "acct_1StripeDouble"

BILLING_KEY = "spell_billing_key"
"""The metadata key whose value may stand on one finalized invoice only."""

EVENT_RETENTION_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Request:
    """The request in whose name events are made."""

    id: str | None = None
    idempotency_key: str | None = None


class Account:
    """One Stripe account in memory."""

    def __init__(
        self,
        clock: Clock,
        *,
        account_id: str = ACCOUNT_ID,
        collect_at_once: bool = True,
        auto_create_customers: bool = False,
    ) -> None:
        self.id = account_id
        self.clock = clock
        self.collect_at_once = collect_at_once
        self.auto_create_customers = auto_create_customers
        self.portal_saved = True
        self.portal_sessions: list[Mapping[str, Any]] = []
        self.request = Request()
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
        self._billed: dict[str, set[str]] = {}

    def new_id(self, prefix: str) -> str:
        """Return an id that no other object of this or another double has."""
        self.last_serial += 1
        return f"{prefix}_1{self.salt}{self.last_serial:010}"

    def emit(
        self,
        kind: str,
        snapshot: Customer | Invoice | InvoiceItem | CreditNote | Charge | Refund | Dispute,
        previous: Mapping[str, object] | None = None,
    ) -> None:
        """Record an event with the object as it is now."""
        self.events.add(
            Event(
                id=self.new_id("evt"),
                type=kind,
                created=self.clock.unix(),
                snapshot=snapshot,
                previous=previous,
                request_id=self.request.id,
                idempotency_key=self.request.idempotency_key,
            )
        )

    def customer(self, customer_id: str, *, param: str | None = None) -> Customer:
        """Return a customer; make an unknown one up when the double is told to.

        Raises:
            ApiError: `resource_missing`.
        """
        if self.auto_create_customers and customer_id.startswith("cus_"):
            known = self.customers.find(customer_id)
            return known or self.customers.add(Customer(id=customer_id, created=self.clock.unix()))
        return self.customers.get(customer_id, param=param)

    def shift_balance(self, customer_id: str, currency: str, cents: int) -> Customer:
        """Add to what a customer owes (negative: to their credit)."""
        customer = self.customers.get(customer_id)
        balances = {**customer.balances_cents, currency: customer.balances_cents.get(currency, 0) + cents}
        return self.customers.replace(
            replace(customer, balances_cents=balances, currency=customer.currency or currency)
        )

    def put_invoice(self, invoice: Invoice) -> Invoice:
        """Store an invoice's new state, and flag a second finalized one with its billing key."""
        if self.invoices.find(invoice.id) is None:
            self.invoices.add(invoice, owner=invoice.customer)
        else:
            self.invoices.replace(invoice)
        key = invoice.metadata.get(BILLING_KEY)
        if key is not None and invoice.status in FINALIZED:
            self._flag_second(key, invoice)
        return invoice

    def _flag_second(self, key: str, invoice: Invoice) -> None:
        billed = self._billed.setdefault(key, set())
        billed.add(invoice.id)
        standing = tuple(sorted(each for each in billed if self._stands(each, key)))
        violation = Violation(key, standing)
        if len(standing) > 1 and violation not in self.violations:
            self.violations.append(violation)

    def _stands(self, invoice_id: str, key: str) -> bool:
        invoice = self.invoices.find(invoice_id)
        return (
            invoice is not None and invoice.status in FINALIZED and invoice.metadata.get(BILLING_KEY) == key
        )
