"""Reconciliation: frozen usage, ledger and Stripe compared to the cent, both ways.

Written apart from the code that bills: it shares neither the driver's comparisons nor the sweep's matching,
so that a mistake there shows here.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from itertools import zip_longest
from typing import Any

from spell_billing.core.drafting import load_lines
from spell_billing.core.keys import billing_key
from spell_billing.core.money import exact_sum, plain
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, UNDONE, State
from spell_billing.invoicing.findings import Finding, Kind, Reconciliation
from spell_billing.invoicing.gateway import Gateway
from spell_billing.ledger.rows import Bill
from spell_billing.stripe_api.client import Invoice
from spell_billing.stripe_api.problems import Kind as Problem
from spell_billing.stripe_api.problems import StripeProblem
from spell_billing.usage.contract import FrozenUsage
from spell_billing.usage.user_usage import open_user_usage

_IN_STEPS = frozenset({"bhd", "jod", "kwd", "omr", "tnd", "isk", "ugx"})
_DAY_SECONDS = 86_400
_COMPARED = (
    *("id", "status", "total", "currency", "customer", "metadata", "lines", "from_invoice"),
    *("amount_paid", "amount_remaining", "payments", "total_taxes", "total_discount_amounts"),
)
_RETRIEVE = "GET /v1/invoices/{invoice}"
_MOST_RETRIEVED = 200
"""So many invoices are looked for by their id; where more are missing, it is another account."""


async def reconcile(
    month: Month, frozen: FrozenUsage, bills: Iterable[Bill], gateway: Gateway
) -> Reconciliation:
    """Compare the month's frozen usage, ledger and Stripe.

    Args:
        month: The month.
        frozen: The version it was billed from, aggregated.
        bills: All bills of the ledger, every generation.
        gateway: To Stripe; only lists.

    Raises:
        UsageError: when the version was not aggregated.
        IntegrityError: when what was aggregated was altered.
        StripeProblem: when Stripe does not answer.
        StripeAccountError: when the account refuses.
    """
    result = Reconciliation(month)
    by_user: defaultdict[str, list[Bill]] = defaultdict(list)
    for bill in bills:
        by_user[bill.user_id].append(bill)
    for generations in by_user.values():
        generations.sort(key=lambda bill: bill.generation)
    _compare_usage(result, frozen, by_user)
    _check_sums(result, by_user)
    known = {bill.stripe_invoice_id for generations in by_user.values() for bill in generations}
    at_stripe = await _list_ours(month, gateway, known)
    _compare_invoices(result, by_user, at_stripe)
    result.standing = [invoice for invoice in at_stripe if invoice["status"] not in {"draft", "void"}]
    return result


def _compare_usage(result: Reconciliation, frozen: FrozenUsage, by_user: dict[str, list[Bill]]) -> None:
    """Frozen usage against the ledger's latest bills, user by user."""
    seen: set[str] = set()
    with open_user_usage(frozen) as file:
        for batch in file.iter_batches(columns=["user_id", "calls", "cost_cents"]):
            for row in batch.to_pylist():
                user_id, calls, cents = row["user_id"], row["calls"], Decimal(row["cost_cents"])
                seen.add(user_id)
                result.frozen_users += 1
                result.frozen_calls += calls
                result.frozen_usage_cents = exact_sum(result.frozen_usage_cents, cents)
                if user_id not in by_user:
                    expected = f"{calls} calls, {cents} cents"
                    result.findings.append(
                        Finding(Kind.MISSING_IN_LEDGER, user_id, None, expected, "no bill")
                    )
                    continue
                _compare_user(result, by_user[user_id][-1], calls, cents)
    for user_id in by_user.keys() - seen:
        _compare_user(result, by_user[user_id][-1], 0, Decimal(0))


def _compare_user(result: Reconciliation, bill: Bill, calls: int, cents: Decimal) -> None:
    have_calls = bill.calls + bill.unbilled_calls
    have_cents = exact_sum(bill.usage_cents, bill.unbilled_usage_cents)
    if (have_calls, have_cents) != (calls, cents):
        _add(
            result,
            Kind.USAGE_DIFFERS,
            bill,
            f"{calls} calls, {cents} cents",
            f"{have_calls} calls, {have_cents} cents",
        )


def _check_sums(result: Reconciliation, by_user: dict[str, list[Bill]]) -> None:
    """Each bill against itself: its lines, its usage, its total."""
    for generations in by_user.values():
        for bill in generations:
            lines = load_lines(bill.lines)
            usage_cents = exact_sum(*(Decimal(line.usage_cents) for line in lines if line.kind == "usage"))
            if usage_cents != bill.usage_cents:
                _add(
                    result,
                    Kind.LINES_DO_NOT_ADD_UP,
                    bill,
                    f"{plain(bill.usage_cents)} cents of usage",
                    f"lines for {plain(usage_cents)} cents",
                )
            if sum(line.amount_cents for line in lines) != bill.total_cents:
                _add(
                    result,
                    Kind.LINES_DO_NOT_ADD_UP,
                    bill,
                    f"total {bill.total_cents}",
                    f"lines {sum(line.amount_cents for line in lines)}",
                )
            for line in lines:
                exact = Decimal(line.usage_cents)
                if line.kind == "usage" and line.amount_cents != exact.quantize(Decimal(1), ROUND_HALF_UP):
                    _add(
                        result,
                        Kind.LINES_DO_NOT_ADD_UP,
                        bill,
                        f"{exact} cents of usage",
                        f"line of {line.amount_cents}",
                    )


async def _list_ours(month: Month, gateway: Gateway, known: Collection[str | None]) -> list[Invoice]:
    """Return the invoices that name the month, or that the ledger names, even where no list has them."""
    since = int(month.end.timestamp()) - _DAY_SECONDS
    found: list[Invoice] = [
        {name: invoice.get(name) for name in _COMPARED}
        async for page in gateway.invoices(created={"gte": since}, expand=["data.payments"])
        for invoice in page
        if invoice["metadata"].get("spell_month") == str(month) or invoice["id"] in known
    ]
    # What is on a test clock is in no list of the account.
    missing = sorted({each for each in known if each} - {invoice["id"] for invoice in found})
    for invoice_id in missing[:_MOST_RETRIEVED]:
        try:
            shown = {"expand": ["payments"]}
            answer = await gateway.send(_RETRIEVE, "get", f"/v1/invoices/{invoice_id}", shown)
        except StripeProblem as problem:
            if problem.kind is not Problem.MISSING:
                raise
        else:
            found.append({name: answer.object.get(name) for name in _COMPARED})
    return found


def _compare_invoices(
    result: Reconciliation, by_user: dict[str, list[Bill]], at_stripe: list[Invoice]
) -> None:
    found = {invoice["id"]: invoice for invoice in at_stripe}
    in_ledger: set[str] = set()
    for generations in by_user.values():
        latest = generations[-1]
        if latest.state in UNDONE:
            why = latest.why or str(latest.state)
            _add(result, Kind.NOT_INVOICED, latest, f"invoice of {latest.total_cents}", why)
        for bill in generations:
            if bill.stripe_invoice_id is not None:
                in_ledger.add(bill.stripe_invoice_id)
                _compare_bill(result, bill, found.get(bill.stripe_invoice_id))
    standing = [invoice for invoice in at_stripe if invoice["status"] not in {"draft", "void"}]
    result.stripe_invoices = len(standing)
    for invoice in standing:
        result.stripe_by_currency[invoice["currency"]] += invoice["total"]
    for invoice in at_stripe:
        if invoice["status"] == "draft" and not invoice["from_invoice"]:
            _at_stripe(result, Kind.DRAFT_LEFT, invoice, "no draft", f"draft of {invoice['total']}")
    for invoice in standing:
        if invoice["id"] not in in_ledger:
            what = f"{invoice['status']} invoice of {invoice['total']}"
            _at_stripe(result, Kind.UNKNOWN_TO_LEDGER, invoice, "known to the ledger", what)
    _find_twins(result, standing)


def _find_twins(result: Reconciliation, standing: list[Invoice]) -> None:
    """Two invoices that stand for one user and month, of whatever generation."""
    by_bill: defaultdict[str, list[Invoice]] = defaultdict(list)
    for invoice in standing:
        by_bill[invoice["metadata"].get("spell_billing_key", "").rpartition(":g")[0]].append(invoice)
    for name, invoices in by_bill.items():
        if name and len(invoices) > 1:
            ids = ", ".join(sorted(invoice["id"] for invoice in invoices))
            _at_stripe(result, Kind.TWO_FOR_ONE_USER, invoices[0], "one invoice", ids)


def _compare_bill(result: Reconciliation, bill: Bill, invoice: Invoice | None) -> None:
    """One bill of the ledger that names an invoice against that invoice."""
    if bill.state in INVOICED:
        result.ledger_invoices += 1
        result.ledger_by_currency[bill.currency] += _due_cents(bill)
        result.ledger_tax_cents += bill.tax_cents or 0
        result.ledger_discount_cents += bill.discount_cents or 0
    if invoice is None:
        if bill.state in INVOICED:
            _add(result, Kind.MISSING_AT_STRIPE, bill, f"{bill.state} invoice of {bill.total_cents}", "none")
        return
    if invoice["status"] == "void":
        if bill.state not in {State.VOID, State.SETTLED}:
            _add(result, Kind.VOID_AT_STRIPE, bill, str(bill.state), "void")
        return
    if bill.state in {State.VOID, State.SETTLED}:
        _add(result, Kind.STANDS_AT_STRIPE, bill, str(bill.state), invoice["status"])
    if bill.state not in INVOICED:
        return
    named = invoice["metadata"].get("spell_billing_key")
    for kind, expected, at_stripe in (
        (Kind.METADATA_DIFFERS, billing_key(bill.month, bill.user_id, bill.generation), named),
        (Kind.AMOUNT_DIFFERS, _due_cents(bill), invoice["total"]),
        (Kind.AMOUNT_DIFFERS, f"tax {bill.tax_cents}", f"tax {_tax_cents(bill, invoice)}"),
        (
            *(Kind.AMOUNT_DIFFERS, f"discount {bill.discount_cents}"),
            f"discount {_discount_cents(bill, invoice)}",
        ),
        (Kind.CURRENCY_DIFFERS, bill.currency, invoice["currency"]),
        (Kind.CUSTOMER_DIFFERS, bill.stripe_customer_id, invoice["customer"]),
    ):
        if expected != at_stripe:
            _add(result, kind, bill, str(expected), str(at_stripe))
    _compare_lines(result, bill, invoice["lines"])


def _tax_cents(bill: Bill, invoice: Invoice) -> int | None:
    """Return the tax on top of what the lines charge, where the ledger's bill has one."""
    taxes = invoice["total_taxes"] or ()
    on_top = (tax["amount"] for tax in taxes if tax["tax_behavior"] == "exclusive")
    return None if bill.tax_cents is None else sum(on_top)


def _discount_cents(bill: Bill, invoice: Invoice) -> int | None:
    """Return what coupons took off the lines, where the ledger's bill has a discount."""
    amounts = (discount["amount"] for discount in invoice["total_discount_amounts"] or ())
    return None if bill.discount_cents is None else sum(amounts)


def _due_cents(bill: Bill) -> int:
    """Return the invoice's total by the ledger: what the lines charge, less the discount, and the tax."""
    return bill.total_cents - (bill.discount_cents or 0) + (bill.tax_cents or 0)


def _compare_lines(result: Reconciliation, bill: Bill, at_stripe: Mapping[str, Any]) -> None:
    """Each line of a bill against Stripe's: the list shows the first ten, which is all but for long bills."""
    if at_stripe["has_more"]:
        return
    lines = load_lines(bill.lines)
    # Lines follow the steps of such a currency; what a person changed may be anywhere.
    if bill.currency in _IN_STEPS or any(line.kind == "changed_at_stripe" for line in lines):
        return
    hidden = {"unbilled", "moved"}
    expected = sorted((x.amount_cents, x.description) for x in lines if x.kind not in hidden)
    found = sorted((int(line["amount"]), str(line["description"] or "")) for line in at_stripe["data"])
    for ours, theirs in zip_longest(expected, found, fillvalue=(0, "no line")):
        if ours != theirs:
            _add(result, Kind.LINES_DIFFER, bill, f"{ours[1]}: {ours[0]}", f"{theirs[1]}: {theirs[0]}")
            return


def _add(result: Reconciliation, kind: Kind, bill: Bill, expected: str, found: str) -> None:
    result.findings.append(Finding(kind, bill.user_id, bill.stripe_invoice_id, expected, found))


def _at_stripe(result: Reconciliation, kind: Kind, invoice: Invoice, expected: str, found: str) -> None:
    user_id = invoice["metadata"].get("spell_user_id", "")
    result.findings.append(Finding(kind, user_id, invoice["id"], expected, found))
