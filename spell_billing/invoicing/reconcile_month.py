"""Reconciles a month of the ledger with its frozen usage and Stripe, and writes the result down.

The money too: what Stripe says was paid and went back of the month's invoices, against the ledger.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError
from spell_billing.core.money import format_amounts, format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.invoicing.came_back import came_back_findings
from spell_billing.invoicing.findings import Finding, Kind, Reconciliation
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.guards import other_drafts
from spell_billing.invoicing.lookups import asking
from spell_billing.invoicing.reconcile import bills_by_user, reconcile, since_close
from spell_billing.invoicing.rederive import item_findings, rederive
from spell_billing.invoicing.rederive_trail import trail_findings
from spell_billing.invoicing.reprice import late_price_findings
from spell_billing.invoicing.usage_versions import pinned_since
from spell_billing.ledger.charges import Kept, read_charges
from spell_billing.ledger.erasing import require_no_unfinished_erasure
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.money_tables import credit_notes
from spell_billing.ledger.month_state import read_standing
from spell_billing.ledger.payments import read_payments
from spell_billing.ledger.reviews import read_review
from spell_billing.ledger.rows import Actor, Bill, MonthRecord
from spell_billing.ledger.schema import audit, invoices
from spell_billing.stripe_api.client import Invoice
from spell_billing.usage.store import UsageStore

RECONCILED = "reconciled"
DIFFERENCES = "differences_found"
_TAKES_MONEY = frozenset({"needs_response", "under_review", "lost"})
"""Statuses of a dispute: of the others, an inquiry took nothing, and what was won came back."""


async def reconcile_month(
    ledger: Ledger, store: UsageStore, gateway: Gateway, month: Month, actor: Actor
) -> Reconciliation:
    """Compare the month's four sides; the outcome goes into the audit trail.

    Raises:
        LedgerError: when the month was never drafted, or the erasure of a user was not completed.
        UsageError: when its frozen usage is not in the store.
        IntegrityError: when a file of it is missing, or altered.
        StripeAccountError: when Stripe does not answer, or refuses the account.
    """
    ledger.read(require_no_unfinished_erasure)
    record = ledger.month(month)
    if record is None:
        raise LedgerError(
            f"{month} has no drafts: there is nothing to compare.",
            remedy=f"Bill it first: spell-billing bill --month {month}.",
        )
    frozen = store.version(month, record.usage_version)
    store.verify(frozen)
    with asking(
        f"Stripe cannot be asked what stands for {month}",
        remedy="Check the network, STRIPE_API_BASE and Stripe's status page, then try again.",
    ):
        bills = list(ledger.bills(month))
        by_user = bills_by_user(bills)
        result = await reconcile(month, frozen, by_user, gateway)
        money = await _money_at_stripe(gateway, month, result.standing)
    with ledger.reading() as connection:
        result.findings.extend(rederive(connection, month, frozen, by_user))
        result.findings.extend(_not_approved(connection, month, record))
        latest = {user_id: each[-1] for user_id, each in by_user.items()}
        result.findings.extend(trail_findings(connection, record, latest, result))
        if read_standing(connection, month).in_review:
            # Nobody has an invoice yet, for one reason.
            result.findings = [each for each in result.findings if each.kind is not Kind.NOT_INVOICED]
            one = Finding(Kind.IN_REVIEW, "every user", None, "an approval of the drafts", "none yet")
            result.findings.append(one)
        result.findings.extend(item_findings(frozen, latest))
        if frozen.manifest.rates is not None:
            result.findings.extend(late_price_findings(frozen, pinned_since(ledger, store, month)))
        result.money = _by_currency(money.values())
        result.findings.extend(_money_findings(connection, month, bills, money))
        result.findings.extend(_credit_findings(connection, month, bills, result.standing))
        result.findings.extend(came_back_findings(connection, latest.values()))
    result.drop_echoes()
    ledger.record_action(
        month,
        actor,
        DIFFERENCES if result.differences else RECONCILED,
        f"{len(result.differences)} differences; ledger {format_amounts(result.ledger_by_currency)}; "
        f"Stripe {format_amounts(result.stripe_by_currency)}",
    )
    return result


def _not_approved(connection: Connection, month: Month, record: MonthRecord) -> Iterator[Finding]:
    """Find a month that was sent without approval, or with other drafts than were reviewed."""
    review = read_review(connection, month)
    if record.billing_started_at is None or review is None:
        return
    reviewed = f"the drafts {review.drafts_hash[:12]}"
    if review.needs_approval:
        yield Finding(Kind.NOT_APPROVED, "every user", None, f"an approval of {reviewed}", "none")
        return
    now = other_drafts(connection, month, review)
    if now is not None:
        yield Finding(Kind.NOT_APPROVED, "every user", None, f"{reviewed}, as reviewed", now[:12])


async def _money_at_stripe(gateway: Gateway, month: Month, invoices: Sequence[Invoice]) -> dict[str, Kept]:
    """Return the money of each standing invoice, by Stripe's lists alone."""
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


def _by_currency(found: Iterable[Kept]) -> list[Kept]:
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in found:
        for name in ("paid_cents", "refunded_cents", "disputed_cents", "due_cents"):
            sums[each.currency][name] += getattr(each, name)
    return [Kept(currency, **sums[currency]) for currency in sorted(sums)]


def _money_findings(
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


def _credit_findings(
    connection: Connection, month: Month, bills: Sequence[Bill], standing: Sequence[Invoice]
) -> Iterator[Finding]:
    """Return invoices of which credit notes took off less at Stripe than the ledger says.

    What they took off since is no difference.
    """
    payments = {each.stripe_invoice_id: each for each in read_payments(connection, month)}
    notes, of_month = credit_notes.c, sa.select(invoices.c.id).where(invoices.c.month == str(month))
    issued = sa.select(notes.stripe_invoice_id, sa.func.sum(notes.cents)).where(
        notes.outcome == "issued", notes.bill_id.in_(of_month)
    )
    # What came back since: of a note that a person voided, or a refund that failed.
    came_back = sa.select(audit.c.stripe_invoice_id, audit.c.amount_cents).where(
        audit.c.month == str(month), audit.c.action == "money_back", audit.c.amount_cents < 0
    )
    given = Counter[str]()
    for query in (issued.group_by(notes.stripe_invoice_id), came_back):
        for name, cents in connection.execute(query):
            given[name] += int(cents)
    at_stripe = {invoice["id"]: invoice for invoice in standing}
    for bill in bills:
        invoice = at_stripe.get(bill.stripe_invoice_id)
        if invoice is None:
            continue
        payment = payments.get(invoice["id"])
        before, after = (int(invoice[f"{each}_payment_credit_notes_amount"] or 0) for each in ("pre", "post"))
        sides = (
            (
                "taken off by credit notes before the payment",
                payment.credited_cents if payment else 0,
                before,
            ),
            ("of credit notes issued", given[invoice["id"]], before + after),
        )
        for what, ours, theirs in sides:
            if ours > theirs:
                believed, found = (format_money(cents, bill.currency) for cents in (ours, theirs))
                yield Finding.of(Kind.MONEY_DIFFERS, bill, f"{believed} {what}", found)
