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
from spell_billing.ledger.payments import Payment, read_payments
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
    invoices: Sequence[Invoice],
    charges: Mapping[str, Sequence[Mapping[str, Any]]],
    known: Mapping[str, Charge],
) -> list[AtStripe]:
    """Return the money of each standing invoice.

    Args:
        invoices: With their payments.
        charges: By payment intent.
        known: What the ledger knows of charges, by id: how a dispute stands, only an event tells.
    """
    found = []
    for invoice in invoices:
        payments = (invoice.get("payments") or {}).get("data") or []
        intents = [str((each.get("payment") or {}).get("payment_intent")) for each in payments]
        own = [charge for intent in intents for charge in charges.get(intent, ())]
        disputed = [charge for charge in own if charge.get("disputed")]
        found.append(
            AtStripe(
                invoice,
                int(invoice["amount_paid"]),
                sum(int(charge["amount_refunded"]) for charge in own),
                sum(_disputed_cents(charge, known.get(str(charge["id"]))) for charge in disputed),
            )
        )
    return found


def _disputed_cents(charge: Mapping[str, Any], known: Charge | None) -> int:
    if known is not None and known.dispute is not None:
        return known.disputed_cents
    return int(charge["amount"]) - int(charge["amount_refunded"])


def sums(found: Sequence[AtStripe]) -> list[Kept]:
    """Sum the money by currency."""
    totals: dict[str, Kept] = {}
    for each in found:
        before = totals.setdefault(each.invoice["currency"], Kept(each.invoice["currency"]))
        remaining = int(each.invoice.get("amount_remaining") or 0) if each.invoice["status"] == "open" else 0
        totals[before.currency] = replace(
            before,
            paid_cents=before.paid_cents + each.paid_cents,
            refunded_cents=before.refunded_cents + each.refunded_cents,
            disputed_cents=before.disputed_cents + each.disputed_cents,
            due_cents=before.due_cents + remaining,
        )
    return [totals[currency] for currency in sorted(totals)]


def money_findings(
    connection: Connection, month: Month, bills: Sequence[Bill], found: Sequence[AtStripe]
) -> Iterator[Finding]:
    """Return invoices of which less was kept than the ledger knows; what came in since is no difference."""
    payments = {each.stripe_invoice_id: each for each in read_payments(connection, month)}
    invoice_ids = [each.invoice["id"] for each in found]
    charges: defaultdict[str, list[Charge]] = defaultdict(list)
    for charge in read_charges(connection, invoice_ids=invoice_ids):
        charges[charge.stripe_invoice_id].append(charge)
    by_invoice = {bill.stripe_invoice_id: bill for bill in bills}
    for each in found:
        bill = by_invoice.get(each.invoice["id"])
        if bill is None:
            continue
        believed_cents = _believed_cents(bill, payments.get(each.invoice["id"]), charges[each.invoice["id"]])
        if each.kept_cents < believed_cents:
            paid, refunded, disputed, kept, believed = (
                format_money(cents, bill.currency)
                for cents in (
                    *(each.paid_cents, each.refunded_cents, each.disputed_cents, each.kept_cents),
                    believed_cents,
                )
            )
            yield Finding(
                Kind.MONEY_DIFFERS,
                bill.user_id,
                bill.stripe_invoice_id,
                f"{believed} received and kept",
                f"{kept}: {paid} paid, {refunded} refunded, {disputed} disputed",
            )


def _believed_cents(bill: Bill, payment: Payment | None, charges: Sequence[Charge]) -> int:
    """Return what the ledger takes as kept; without news, a paid bill was paid with its total."""
    if payment is None:
        return bill.invoice_cents if bill.state is State.PAID else 0
    back_cents = sum(charge.refunded_cents + charge.disputed_cents for charge in charges)
    return payment.amount_paid_cents - back_cents
