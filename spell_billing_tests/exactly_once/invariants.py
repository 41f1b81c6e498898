"""What must hold after whatever happened and one more run, checked without the code that bills."""

from collections.abc import Collection
from dataclasses import asdict
from decimal import Decimal
from itertools import pairwise
from typing import Any

from spell_billing.core.drafting import Draft
from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Bill
from spell_billing.stripe_double import Invoice, StripeDouble
from spell_billing_tests.exactly_once.billing import OCTOBER

_STATUSES = {
    State.FINALIZED: {"open", "paid"},
    State.PAID: {"paid"},
    State.PAYMENT_FAILED: {"open"},
    State.UNCOLLECTIBLE: {"uncollectible"},
}
_DIFFERS = {
    *("id", "run_id", "created_at", "updated_at", "finalized_at"),
    *("stripe_invoice_id", "stripe_request_id"),
}
Standing = str
"""What stands of a month, to tell whether it is the same as another time."""

_STANDING = {"open", "paid", "uncollectible"}


def check_stripe(double: StripeDouble) -> dict[str, Invoice]:
    """Check what must hold at any moment, in the middle of a run too; give the standing invoices by user."""
    assert double.violations == []
    pending = [item for item in double.state.items if item.invoice is None]
    assert [item.line.description for item in pending] == ["not of this system"]
    standing: dict[str, Invoice] = {}
    for invoice in double.invoices():
        user_id = invoice.metadata.get("spell_user_id")
        if user_id is None or invoice.status not in _STANDING:
            continue
        assert user_id not in standing, f"{user_id} has two invoices: {standing[user_id]} and {invoice}"
        standing[user_id] = invoice
    return standing


def check_finished(
    double: StripeDouble, ledger: Ledger, drafts: Collection[Draft], parked: Collection[str] = ()
) -> None:
    """Check that everybody with a bill was billed once, that both sides agree, and nothing is left over.

    Args:
        double: The Stripe account.
        ledger: The ledger that billed it.
        drafts: The month as it was frozen.
        parked: Users whose invoice a person took away: the ledger names them, nobody bills them.
    """
    standing = check_stripe(double)
    left = [each.id for each in double.invoices() if each.status == "draft"]
    assert left == [], "drafts are left behind"
    bills = {bill.user_id: bill for bill in ledger.bills(OCTOBER)}
    assert bills.keys() == {draft.user_id for draft in drafts}
    for draft in drafts:
        bill, invoice = bills[draft.user_id], standing.pop(draft.user_id, None)
        assert (bill.calls + bill.unbilled_calls) == draft.calls
        assert (bill.usage_cents + bill.unbilled_usage_cents) == draft.usage_cents
        if draft.user_id in parked:
            assert (bill.state, invoice) == (State.PARKED, None)
            assert bill.why
        elif draft.state is State.PLANNED or invoice is not None:
            assert invoice is not None, f"{draft.user_id} has no invoice: {bill}"
            _check_billed(bill, invoice)
        else:
            assert (bill.state, bill.reason) == (draft.state, draft.reason)
        _check_trail(bill, ledger.audit_trail(OCTOBER, draft.user_id))
    assert standing == {}, "invoices that no bill in the ledger explains"


def _check_billed(bill: Bill, invoice: Invoice) -> None:
    assert bill.state in INVOICED, bill
    assert invoice.status in _STATUSES[bill.state]
    assert (bill.reason, bill.stripe_invoice_id) == (None, invoice.id)
    assert bill.finalized_at is not None
    assert int(bill.finalized_at.timestamp()) == invoice.finalized_at
    assert (invoice.customer, invoice.currency) == (bill.stripe_customer_id, bill.currency)
    assert (invoice.description, invoice.total_cents) == (bill.description, bill.total_cents)
    assert invoice.metadata["spell_lines_hash"] == bill.lines_hash
    assert invoice.metadata["spell_calls"] == str(bill.calls)
    shown = [
        (line.description, line.amount_cents, line.metadata["spell_kind"], line.metadata["spell_usage_cents"])
        for line in invoice.lines
    ]
    frozen = [
        (line.description, line.amount_cents, line.kind, line.usage_cents) for line in bill.parsed_lines
    ]
    assert sorted(shown) == sorted(frozen)
    assert sum(line.amount_cents for line in invoice.lines) == invoice.total_cents
    usage = sum((Decimal(line.usage_cents) for line in bill.parsed_lines if line.kind == "usage"), Decimal(0))
    assert usage == bill.usage_cents


def _check_trail(bill: Bill, trail: list[dict[str, Any]]) -> None:
    # One entry tells of all drafts of the month; the next one of a bill has the state it was drafted in.
    steps = [(entry["from_state"], entry["to_state"]) for entry in trail if entry["user_id"] is not None]
    assert trail[0]["from_state"] is None
    assert not steps or steps[-1][1] == bill.state
    for (_, reached), (left, _) in pairwise(steps):
        assert reached == left, f"the trail of {bill.user_id} has a gap: {steps}"
    named = {entry["stripe_invoice_id"] for entry in trail}
    assert bill.state not in INVOICED or bill.stripe_invoice_id in named
    assert all(entry["actor"] for entry in trail)


def what_stands(double: StripeDouble, ledger: Ledger) -> Standing:
    """Return all that a run goes by, in the ledger and at Stripe, without the ids and times that differ."""
    record = ledger.month(OCTOBER)
    assert record is not None
    invoices = {invoice.id: invoice for invoice in double.invoices()}
    bills = [
        (
            {name: value for name, value in asdict(bill).items() if name not in _DIFFERS},
            bill.finalized_at is not None,
            _content(invoices.pop(bill.stripe_invoice_id or "", None)),
        )
        for bill in ledger.bills(OCTOBER)
    ]
    others = sorted(map(repr, map(_content, invoices.values())))
    return repr((record.billing_started_at is None, record.billed_at is None, bills, others))


def _content(invoice: Invoice | None) -> object:
    return invoice and (
        *(invoice.customer, invoice.status, invoice.total_cents, invoice.description),
        *(sorted(invoice.metadata.items()), [line.amount_cents for line in invoice.lines]),
    )
