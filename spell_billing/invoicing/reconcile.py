"""Reconciliation: frozen usage, ledger and Stripe compared to the cent, both ways.

Written apart from the code that bills: it shares neither the driver's comparisons nor the sweep's matching,
so that a mistake there shows here.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import zip_longest
from typing import Any

from spell_billing.core.keys import billing_key
from spell_billing.core.lines import Line, load_lines
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, UNDONE, State
from spell_billing.invoicing.findings import Finding, Kind, Reconciliation
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.rederive import sum_findings
from spell_billing.invoicing.reprice import frozen_users, repriced_users
from spell_billing.ledger.rows import Bill
from spell_billing.stripe_api.client import Invoice
from spell_billing.stripe_api.problems import Kind as Problem
from spell_billing.stripe_api.problems import StripeProblem
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.user_usage import open_user_usage

_IN_STEPS = frozenset({"bhd", "jod", "kwd", "omr", "tnd", "isk", "ugx"})
_DAY_SECONDS = 86_400
_COMPARED = (
    *("id", "status", "total", "currency", "customer", "metadata", "lines", "from_invoice"),
    *("amount_paid", "amount_remaining", "payments", "total_taxes", "total_discount_amounts"),
    *("pre_payment_credit_notes_amount", "post_payment_credit_notes_amount"),
)
_MOST_RETRIEVED = 200
"""How many invoices are looked for by their id; where more are missing, it is another account."""

ByUser = Mapping[str, Sequence[Bill]]
"""Each user's bills of the month, the latest generation last."""


async def reconcile(month: Month, frozen: FrozenUsage, by_user: ByUser, gateway: Gateway) -> Reconciliation:
    """Compare the month's frozen usage, all generations of its bills, and Stripe, which is only read.

    Raises:
        UsageError: when the version was not aggregated.
        IntegrityError: when what was aggregated was altered.
    """
    result = Reconciliation(month)
    every_bill = [bill for generations in by_user.values() for bill in generations]
    result.findings.extend(_usage_findings(result, frozen, by_user))
    for bill in every_bill:
        result.findings.extend(sum_findings(bill))
    known = {bill.stripe_invoice_id for bill in every_bill}
    at_stripe = await _list_ours(month, gateway, known)
    result.standing = [invoice for invoice in at_stripe if invoice["status"] not in {"draft", "void"}]
    for invoice in result.standing:
        result.stripe_by_currency[invoice["currency"]] += invoice["total"]
    for bill in every_bill:
        if bill.state in INVOICED:
            result.ledger_invoices += 1
            result.ledger_by_currency[bill.currency] += _due_cents(bill)
            result.ledger_tax_cents += bill.tax_cents or 0
            result.ledger_discount_cents += bill.discount_cents or 0
    result.findings.extend(_bill_findings(by_user, at_stripe))
    result.findings.extend(_stray_findings(at_stripe, known))
    result.findings.extend(_unexplained(result, every_bill))
    return result


def since_close(month: Month) -> dict[str, int]:
    """Return the filter for what Stripe has made since a day before the month closed."""
    return {"gte": int(month.end.timestamp()) - _DAY_SECONDS}


def bills_by_user(bills: Iterable[Bill]) -> dict[str, list[Bill]]:
    """Return each user's bills, the latest generation last."""
    by_user: defaultdict[str, list[Bill]] = defaultdict(list)
    for bill in sorted(bills, key=lambda bill: bill.generation):
        by_user[bill.user_id].append(bill)
    return by_user


def _usage_findings(result: Reconciliation, frozen: FrozenUsage, by_user: ByUser) -> Iterator[Finding]:
    """Compare frozen usage, which the result sums, with the ledger's latest bills, user by user."""
    with open_user_usage(frozen) as file:
        rows = file.read(columns=["user_id", "calls", "cost_cents"]).to_pylist()
    aggregated = {row["user_id"]: (row["calls"], Decimal(row["cost_cents"])) for row in rows}
    usage = frozen_users(frozen) if frozen.manifest.rates is None else repriced_users(frozen)
    result.frozen_users = len(usage)
    result.frozen_calls = sum(calls for calls, _ in usage.values())
    result.frozen_usage_cents = exact_sum(*(cents for _, cents in usage.values()))
    for user_id in sorted(usage.keys() | by_user.keys()):
        calls, cents = usage.get(user_id, (0, Decimal(0)))
        expected = f"{calls} calls, {cents} cents"
        have_calls, have_cents = aggregated.get(user_id, (0, Decimal(0)))
        if (have_calls, have_cents) != (calls, cents):
            # What bills were made of is not what the frozen rows hold.
            found = f"{have_calls} calls, {have_cents} cents in user_usage.parquet"
            yield Finding(Kind.USAGE_DIFFERS, user_id, None, f"{expected} in the frozen rows", found)
            continue
        if user_id not in by_user:
            yield Finding(Kind.MISSING_IN_LEDGER, user_id, None, expected, "no bill")
            continue
        bill = by_user[user_id][-1]
        have_calls = bill.calls + bill.unbilled_calls
        have_cents = exact_sum(bill.usage_cents, bill.unbilled_usage_cents)
        if (have_calls, have_cents) != (calls, cents):
            yield Finding.of(Kind.USAGE_DIFFERS, bill, expected, f"{have_calls} calls, {have_cents} cents")


async def _list_ours(month: Month, gateway: Gateway, known: Collection[str | None]) -> list[Invoice]:
    """Return the invoices that name the month, or that the ledger names, even where no list has them."""
    found: list[Invoice] = [
        {name: invoice.get(name) for name in _COMPARED}
        async for page in gateway.invoices(created=since_close(month), expand=["data.payments"])
        for invoice in page
        if invoice["metadata"].get("spell_month") == str(month) or invoice["id"] in known
    ]
    # What is on a test clock is in no list of the account.
    missing = sorted({each for each in known if each} - {invoice["id"] for invoice in found})
    for invoice_id in missing[:_MOST_RETRIEVED]:
        try:
            answer = await gateway.send(
                "GET /v1/invoices/{invoice}", {"expand": ["payments"]}, invoice=invoice_id
            )
        except StripeProblem as problem:
            if problem.kind is not Problem.MISSING:
                raise
        else:
            found.append({name: answer.object.get(name) for name in _COMPARED})
    return found


def _bill_findings(by_user: ByUser, at_stripe: Sequence[Invoice]) -> Iterator[Finding]:
    found = {invoice["id"]: invoice for invoice in at_stripe}
    for generations in by_user.values():
        latest = generations[-1]
        if latest.state in UNDONE:
            expected = f"invoice of {latest.total_cents}"
            yield Finding.of(Kind.NOT_INVOICED, latest, expected, latest.why or str(latest.state))
        for bill in generations:
            invoice = found.get(bill.stripe_invoice_id or "")
            if invoice is not None:
                yield from _compare_bill(bill, invoice)
            elif bill.stripe_invoice_id is not None and bill.state in INVOICED:
                expected = f"{bill.state} invoice of {bill.total_cents}"
                yield Finding.of(Kind.MISSING_AT_STRIPE, bill, expected, "none")


def _stray_findings(at_stripe: Sequence[Invoice], known: Collection[str | None]) -> Iterator[Finding]:
    """Find drafts that are left, invoices that the ledger lacks, and two for one user and month."""
    of_user: defaultdict[str, list[Invoice]] = defaultdict(list)
    for invoice in at_stripe:
        if invoice["status"] == "draft":
            if not invoice["from_invoice"]:
                yield _at_stripe(Kind.DRAFT_LEFT, invoice, "no draft", f"draft of {invoice['total']}")
        elif invoice["status"] != "void":
            if invoice["id"] not in known:
                what = f"{invoice['status']} invoice of {invoice['total']}"
                yield _at_stripe(Kind.UNKNOWN_TO_LEDGER, invoice, "known to the ledger", what)
            key = invoice["metadata"].get("spell_billing_key", "")
            of_user[key.rpartition(":g")[0]].append(invoice)
    for name, invoices in of_user.items():
        if name and len(invoices) > 1:
            ids = ", ".join(sorted(invoice["id"] for invoice in invoices))
            yield _at_stripe(Kind.TWO_FOR_ONE_USER, invoices[0], "one invoice", ids)


def _compare_bill(bill: Bill, invoice: Invoice) -> Iterator[Finding]:
    if invoice["status"] == "void":
        if bill.state not in {State.VOID, State.SETTLED}:
            yield Finding.of(Kind.VOID_AT_STRIPE, bill, str(bill.state), "void")
        return
    if bill.state in {State.VOID, State.SETTLED, State.SKIPPED}:
        stands = f"{invoice['status']} invoice of {invoice['total']}"
        yield Finding.of(Kind.STANDS_AT_STRIPE, bill, str(bill.state), stands)
    if bill.state not in INVOICED:
        return
    key = billing_key(bill.month, bill.user_id, bill.generation)
    for kind, expected, found in (
        (Kind.METADATA_DIFFERS, key, invoice["metadata"].get("spell_billing_key")),
        *_amounts(bill, invoice),
        (Kind.CURRENCY_DIFFERS, bill.currency, invoice["currency"]),
        (Kind.CUSTOMER_DIFFERS, bill.stripe_customer_id, invoice["customer"]),
    ):
        if expected != found:
            yield Finding.of(kind, bill, str(expected), str(found))
    yield from _compare_lines(bill, invoice["lines"])


def _amounts(bill: Bill, invoice: Invoice) -> Iterator[tuple[Kind, str, str]]:
    yield Kind.AMOUNT_DIFFERS, str(_due_cents(bill)), str(invoice["total"])
    # Where the ledger has no tax or discount, Stripe's shows in the total.
    if bill.tax_cents is not None:
        taxes = invoice["total_taxes"] or ()
        tax_cents = sum(each["amount"] for each in taxes if each["tax_behavior"] == "exclusive")
        yield Kind.AMOUNT_DIFFERS, f"tax {bill.tax_cents}", f"tax {tax_cents}"
    if bill.discount_cents is not None:
        discount_cents = sum(each["amount"] for each in invoice["total_discount_amounts"] or ())
        yield Kind.AMOUNT_DIFFERS, f"discount {bill.discount_cents}", f"discount {discount_cents}"


def _due_cents(bill: Bill) -> int:
    """Return the invoice's total by the ledger: what the lines charge, less the discount, and the tax."""
    return bill.total_cents - (bill.discount_cents or 0) + (bill.tax_cents or 0)


def _compare_lines(bill: Bill, at_stripe: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare each line of a bill with Stripe's, where the list shows all: it has the first ten."""
    lines = load_lines(bill.lines)
    # Lines follow the steps of such a currency; what a person changed may be anywhere.
    changed = any(line.kind == "changed_at_stripe" for line in lines)
    if at_stripe["has_more"] or bill.currency in _IN_STEPS or changed:
        return
    shown = [line for line in lines if line.kind not in {"unbilled", "moved", "fee_note"}]
    terms = bill.parsed_terms
    expected = sorted(net_lines(shown) if terms.is_taxed or terms.discounts else _gross(shown))
    found = sorted((int(line["amount"]), str(line["description"] or "")) for line in at_stripe["data"])
    if terms.discounts and found == sorted(_gross(shown)):
        # So were invoices with a coupon before plans were taken off the charges.
        return
    for ours, theirs in zip_longest(expected, found, fillvalue=(0, "no line")):
        if ours != theirs:
            yield Finding.of(Kind.LINES_DIFFER, bill, f"{ours[1]}: {ours[0]}", f"{theirs[1]}: {theirs[0]}")
            return


def _gross(lines: Sequence[Line]) -> list[tuple[int, str]]:
    return [(line.amount_cents, line.description) for line in lines]


def net_lines(lines: Sequence[Line]) -> list[tuple[int, str]]:
    """Return what lines charge where tax or a coupon comes on it: plans and discounts go off usage first.

    Then off the minimum, then off fees. Of the charges together, what is beyond the sum that is taken off
    stands; a line charges its part of that.
    """
    off_kinds, charge_kinds = ("included", "usage_discount", "discount"), ("usage", "minimum", "fee")
    off_cents = -sum(line.amount_cents for line in lines if line.kind in off_kinds and line.amount_cents < 0)
    found, before_cents = [], 0
    for line in sorted(lines, key=lambda each: [*charge_kinds, each.kind].index(each.kind)):
        cents = line.amount_cents
        if line.kind in charge_kinds and cents > 0:
            after_cents = before_cents + cents
            cents = max(0, after_cents - off_cents) - max(0, before_cents - off_cents)
            before_cents = after_cents
        elif line.kind in off_kinds:
            cents = max(0, cents)
        found.append((cents, line.description))
    return found if before_cents >= off_cents else _gross(lines)


def _unexplained(result: Reconciliation, bills: Iterable[Bill]) -> Iterator[Finding]:
    """Find invoices that one side counts and the other does not, where nothing else was found about them.

    So the sums of both sides never differ unsaid.
    """
    amounts: defaultdict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    users: dict[str, str] = {}
    for bill in bills:
        if bill.state in INVOICED:
            amounts[bill.stripe_invoice_id or ""][0].append(f"{_due_cents(bill)} {bill.currency}")
            users[bill.stripe_invoice_id or ""] = bill.user_id
    for invoice in result.standing:
        amounts[invoice["id"]][1].append(f"{invoice['total']} {invoice['currency']}")
        users.setdefault(invoice["id"], invoice["metadata"].get("spell_user_id", ""))
    told = {name for each in result.findings for name in (each.user_id, each.stripe_invoice_id)}
    for invoice_id, (ours, theirs) in amounts.items():
        if ours != theirs and not {invoice_id, users[invoice_id]} & told:
            sides = (f"invoice of {' and '.join(each)}" if each else "no invoice" for each in (ours, theirs))
            yield Finding(Kind.AMOUNT_DIFFERS, users[invoice_id], invoice_id or None, *sides)


def _at_stripe(kind: Kind, invoice: Invoice, expected: str, found: str) -> Finding:
    return Finding(kind, invoice["metadata"].get("spell_user_id", ""), invoice["id"], expected, found)
