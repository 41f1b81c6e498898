"""The fourth side of a reconciliation: money received for a month's invoices, and kept."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.invoicing.gateway import Gateway
from spell_billing.ledger.charges import Charge, Kept, read_charges
from spell_billing.ledger.payments import read_payments
from spell_billing.ledger.rows import Bill
from spell_billing.stripe_api.client import Invoice

_ENDPOINT, _PAGE, _DAY_SECONDS = "GET /v1/charges", 100, 86_400


@dataclass(frozen=True, slots=True)
class AtStripe:
    """One invoice's money by Stripe, in minor units."""

    invoice: Invoice
    paid_cents: int
    refunded_cents: int
    disputed_cents: int

    @property
    def kept_cents(self) -> int:
        """Received and kept."""
        return self.paid_cents - self.refunded_cents - self.disputed_cents


async def charges_since(gateway: Gateway, month: Month) -> dict[str, list[dict[str, Any]]]:
    """Return the account's successful charges since the month closed, by payment intent."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    created = {"gte": int(month.end.timestamp()) - _DAY_SECONDS}
    cursor: dict[str, str] = {}
    while True:
        parameters = {"limit": _PAGE, "created": created, **cursor}
        page = (await gateway.send(_ENDPOINT, "get", "/v1/charges", parameters)).object
        for charge in page["data"]:
            if charge["paid"] and charge.get("payment_intent"):
                found[str(charge["payment_intent"])].append(charge)
        if not page["data"] or not page["has_more"]:
            return found
        cursor = {"starting_after": page["data"][-1]["id"]}


def money_at_stripe(
    connection: Connection,
    invoices: Sequence[Invoice],
    charges: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[AtStripe]:
    """Return the money of each standing invoice.

    Args:
        connection: To the ledger: how a dispute stands, only an event tells.
        invoices: With their payments.
        charges: By payment intent.
    """
    in_ledger = read_charges(connection, invoice_ids=[invoice["id"] for invoice in invoices])
    known = {each.charge_id: each for each in in_ledger}
    found = []
    for invoice in invoices:
        payments = (invoice.get("payments") or {}).get("data") or []
        intents = [str((each.get("payment") or {}).get("payment_intent")) for each in payments]
        own = [charge for intent in intents for charge in charges.get(intent, ())]
        refunded_cents = sum(int(charge["amount_refunded"]) for charge in own)
        disputed_cents = sum(
            _disputed_cents(charge, known.get(str(charge["id"]))) for charge in own if charge.get("disputed")
        )
        found.append(AtStripe(invoice, int(invoice["amount_paid"]), refunded_cents, disputed_cents))
    return found


def _disputed_cents(charge: Mapping[str, Any], known: Charge | None) -> int:
    if known is not None and known.dispute is not None:
        return known.disputed_cents
    return int(charge["amount"]) - int(charge["amount_refunded"])


def sums(found: Sequence[AtStripe]) -> list[Kept]:
    """Sum the money by currency."""
    totals: dict[str, Kept] = {}
    for each in found:
        currency = each.invoice["currency"]
        before = totals.get(currency) or Kept(currency)
        is_open = each.invoice["status"] == "open"
        totals[currency] = replace(
            before,
            paid_cents=before.paid_cents + each.paid_cents,
            refunded_cents=before.refunded_cents + each.refunded_cents,
            disputed_cents=before.disputed_cents + each.disputed_cents,
            due_cents=before.due_cents + (int(each.invoice.get("amount_remaining") or 0) if is_open else 0),
        )
    return [totals[currency] for currency in sorted(totals)]


def money_findings(
    connection: Connection, month: Month, bills: Sequence[Bill], found: Sequence[AtStripe]
) -> Iterator[Finding]:
    """Return invoices of which less was kept than the ledger knows; what came in since is no difference."""
    payments = {each.stripe_invoice_id: each for each in read_payments(connection, month)}
    back_cents: defaultdict[str, int] = defaultdict(int)
    for charge in read_charges(connection, invoice_ids=[each.invoice["id"] for each in found]):
        back_cents[charge.stripe_invoice_id] += charge.refunded_cents + charge.disputed_cents
    by_invoice = {bill.stripe_invoice_id: bill for bill in bills}
    for each in found:
        invoice_id = each.invoice["id"]
        bill, payment = by_invoice.get(invoice_id), payments.get(invoice_id)
        if bill is None:
            continue
        if payment is not None:
            believed_cents = payment.amount_paid_cents - back_cents[invoice_id]
        else:
            # Without news, a paid bill was paid with its total.
            believed_cents = bill.invoice_cents if bill.state is State.PAID else 0
        if each.kept_cents < believed_cents:
            believed, kept, paid, refunded, disputed = (
                format_money(cents, bill.currency)
                for cents in (
                    *(believed_cents, each.kept_cents),
                    *(each.paid_cents, each.refunded_cents, each.disputed_cents),
                )
            )
            yield Finding.of(
                Kind.MONEY_DIFFERS,
                bill,
                f"{believed} received and kept",
                f"{kept}: {paid} paid, {refunded} refunded, {disputed} disputed",
            )
