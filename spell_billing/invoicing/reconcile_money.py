"""Reconciles the money: what Stripe says was paid and went back of a month's invoices, against the ledger."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.reconcile import since_close
from spell_billing.ledger.charges import Kept, read_charges
from spell_billing.ledger.payments import read_payments
from spell_billing.ledger.rows import Bill
from spell_billing.stripe_api.client import Invoice

_TAKES_MONEY = frozenset({"needs_response", "under_review", "lost"})
"""Statuses of a dispute: of the others, an inquiry took nothing, and what was won came back."""


async def money_at_stripe(gateway: Gateway, month: Month, invoices: Sequence[Invoice]) -> dict[str, Kept]:
    """Return the money of each standing invoice, by Stripe's lists alone.

    Raises:
        StripeProblem: when Stripe does not answer.
        StripeAccountError: when the account refuses.
    """
    charges: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    async for charge in _since_close(gateway, month, "/v1/charges"):
        if charge["paid"]:
            charges[str(charge.get("payment_intent"))].append(charge)
    disputed, outside = Counter[str](), Counter[str]()
    async for dispute in _since_close(gateway, month, "/v1/disputes"):
        if dispute["status"] in _TAKES_MONEY:
            disputed[dispute["charge"]] += int(dispute["amount"])
    async for note in _since_close(gateway, month, "/v1/credit_notes"):
        if note["status"] == "issued":
            outside[note["invoice"]] += int(note.get("out_of_band_amount") or 0)
    found = {}
    for invoice in invoices:
        payments = (invoice.get("payments") or {}).get("data") or []
        intents = [(each.get("payment") or {}).get("payment_intent") for each in payments]
        own = [charge for intent in intents if intent for charge in charges[str(intent)]]
        refunded_cents = sum(int(charge["amount_refunded"]) for charge in own)
        found[str(invoice["id"])] = Kept(
            invoice["currency"],
            paid_cents=int(invoice["amount_paid"]),
            refunded_cents=refunded_cents + outside[invoice["id"]],
            disputed_cents=sum(disputed[charge["id"]] for charge in own),
            due_cents=int(invoice.get("amount_remaining") or 0) if invoice["status"] == "open" else 0,
        )
    return found


async def _since_close(gateway: Gateway, month: Month, path: str) -> AsyncIterator[Mapping[str, Any]]:
    async for page in gateway.pages(f"GET {path}", {"created": since_close(month)}):
        for each in page:
            yield each


def by_currency(found: Iterable[Kept]) -> list[Kept]:
    """Sum the money of invoices by currency."""
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in found:
        for name in ("paid_cents", "refunded_cents", "disputed_cents", "due_cents"):
            sums[each.currency][name] += getattr(each, name)
    return [Kept(currency, **sums[currency]) for currency in sorted(sums)]


def money_findings(
    connection: Connection, month: Month, bills: Sequence[Bill], found: Mapping[str, Kept]
) -> Iterator[Finding]:
    """Return invoices of which less was paid than the ledger knows, or more or less went back.

    What was paid since is no difference.
    """
    payments = {each.stripe_invoice_id: each for each in read_payments(connection, month)}
    back_cents = Counter({name: each.returned_outside_cents for name, each in payments.items()})
    for charge in read_charges(connection, invoice_ids=list(found)):
        back_cents[charge.stripe_invoice_id] += charge.refunded_cents + charge.disputed_cents
    by_invoice = {bill.stripe_invoice_id: bill for bill in bills}
    for invoice_id, money in found.items():
        bill, payment = by_invoice.get(invoice_id), payments.get(invoice_id)
        if bill is None:
            continue
        if payment is not None:
            paid_cents = payment.amount_paid_cents
        else:
            # Without news, a paid bill was paid with its total.
            paid_cents = bill.invoice_cents if bill.state is State.PAID else 0
        went_cents = back_cents[invoice_id]
        if money.paid_cents < paid_cents or money.refunded_cents + money.disputed_cents != went_cents:
            kept, paid, refunded, disputed, believed = (
                format_money(cents, bill.currency)
                for cents in (
                    *(money.kept_cents, money.paid_cents, money.refunded_cents, money.disputed_cents),
                    paid_cents - went_cents,
                )
            )
            yield Finding.of(
                Kind.MONEY_DIFFERS,
                bill,
                f"{believed} received and kept",
                f"{kept}: {paid} paid, {refunded} refunded, {disputed} disputed",
            )
