"""The whole story of one user's bill: from the frozen rows to the invoice, or to the reason for none."""

from decimal import Decimal
from typing import Any

from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.ledger import LISTED, Ledger
from spell_billing.ledger.rows import Bill
from spell_billing.status import bill_as_json, whole
from spell_billing.usage.aggregate import rows_of_user
from spell_billing.usage.store import UsageStore


def explain(ledger: Ledger, store: UsageStore, month: Month, user_id: str) -> dict[str, Any]:
    """Tell the story of one user's bill, for people and programs. Nothing is asked of Stripe.

    Returns:
        `answer` in a sentence; frozen usage by day; every generation's lines, state and ids; the audit trail
        with times, actors, runs and Stripe's request ids.

    Raises:
        UsageError: when the frozen usage is not in the store.
    """
    record = ledger.month(month)
    bills = ledger.bills_of_user(month, user_id)
    days = rows_of_user(store.version(month, record.usage_version), user_id) if record else []
    trail = ledger.audit_trail(month, user_id)
    return {
        "month": str(month),
        "user_id": user_id,
        "answer": _answer(month, user_id, bills, drafted=record is not None),
        "usage": {
            "version": record.usage_version if record else None,
            "calls": sum(day.calls for day in days),
            "usage_cents": whole(sum((day.cost_cents for day in days), start=Decimal(0))),
            "days": [
                {"day": day.day.isoformat(), "calls": day.calls, "usage_cents": whole(day.cost_cents)}
                for day in days
            ],
        },
        "bills": [_bill(bill) for bill in bills],
        "history": [_entry(entry) for entry in trail],
    }


def _answer(month: Month, user_id: str, bills: list[Bill], *, drafted: bool) -> str:
    if not drafted:
        return f"{month} was not drafted yet: there is no bill of anyone."
    if not bills:
        return f"User {user_id} had no usage in {month}, so there is no bill."
    bill = bills[-1]
    money = format_money(bill.total_cents, bill.currency, grouping=True)
    if bill.state in INVOICED:
        return f"Invoice {bill.stripe_invoice_id} of {money} ({bill.calls:,} calls) is {bill.state}."
    if bill.state in {State.PLANNED, State.DRAFTED}:
        return f"A bill of {money} is {bill.state}, not finalized yet: the next run sends it on."
    return f"No invoice of {money}: {bill.state}, {bill.reason}. {bill.why}"


def _bill(bill: Bill) -> dict[str, Any]:
    return {
        **bill_as_json({name: getattr(bill, name) for name in LISTED}),
        "run_id": bill.run_id,
        "stripe_request_id": bill.stripe_request_id,
        "request_attempt": bill.request_attempt,
        "lines": [
            {"kind": line.kind, "description": line.description, "amount_cents": line.amount_cents}
            for line in bill.parsed_lines
        ],
        "unbilled_calls": bill.unbilled_calls,
        "unbilled_usage_cents": whole(bill.unbilled_usage_cents),
    }


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in entry.items() if name not in {"id", "month", "user_id"} and value}
    return {**shown, "at": entry["at"].isoformat()}
