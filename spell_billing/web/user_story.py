"""What a user's page of a month says in a sentence, what it offers, and what else of the user waits."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, TO_DRIVE, Reason, State
from spell_billing.ledger.browsing import bills_of
from spell_billing.ledger.credit_notes import known_back_cents, read_credit_notes
from spell_billing.ledger.month_state import MonthState, is_undone
from spell_billing.ledger.payments import read_payment
from spell_billing.ledger.reviews import RELEASABLE
from spell_billing.ledger.rows import Bill
from spell_billing.web.pages import FOR_FINANCE, count, of_code

_MOST_BILLS = 100
"""The user's latest bills, among which other months without an invoice are looked for."""


def answer_of(month: Month, story: Mapping[str, Any], bills: Sequence[Bill]) -> str:
    """Say in a sentence what became of a user's month, with commands in backticks.

    `story` is what `explain` returns.
    """
    if story["usage"]["version"] is None:
        return (
            f"{month.label} is not drafted yet, so nobody has a bill. "
            f"`spell-billing preview --month {month}` shows its current drafts."
        )
    if not bills:
        if not story["known"]:
            unknown = f"no bill of any month, no usage in {month.label}"
            return f"Nothing is known of user {story['user_id']}: {unknown}."
        return f"User {story['user_id']} had no usage in {month.label}, so there is no bill."
    bill = bills[-1]
    money, now = format_money(bill.invoice_cents, bill.currency, grouping=True), FOR_FINANCE[bill.state]
    if bill.state in INVOICED:
        paid = (story["bills"][-1]["payment"] or {}).get("in_words")
        # A paid invoice may have been moved to the next one, or paid from the customer's balance.
        how = f" ({paid})" if paid and bill.state is State.PAID and paid != f"{money} paid" else ""
        return f"Invoice {bill.stripe_invoice_id} of {money}, for {count(bill.calls, 'call')}. {now}{how}."
    if bill.state in TO_DRIVE or bill.reason is None:
        return f"A bill of {money}. {now}: the next billing run sends it on."
    return f"No invoice of {money}. {now}: {of_code(bill.reason)}. {bill.why}"


def choices_of(bills: Sequence[Bill], month_state: MonthState) -> list[str]:
    """Name what may be decided about a user's latest bill; whether it is possible the ledger says."""
    if not bills:
        return []
    bill = bills[-1]
    state = bill.state
    releasable = state is State.HELD and bill.reason in RELEASABLE
    waits = state is State.VOID and bill.reason is Reason.VOIDED
    voidable = state is State.PARKED or state in INVOICED - {State.PAID}
    choices = {
        "bill": month_state == "partial" and (state is State.FAILED or state in TO_DRIVE or waits),
        "release": releasable,
        "hold": state in {State.PLANNED, State.FAILED} or (state is State.HELD and not releasable),
        "settle": state in {State.FAILED, State.HELD, State.PARKED} or waits,
        "void": voidable and bill.stripe_invoice_id is not None,
        "credit": state in INVOICED and state is not State.UNCOLLECTIBLE,
    }
    return [name for name, possible in choices.items() if possible]


def left_cents(connection: Connection, bill: Bill) -> int:
    """Return what may still be given back of an invoice, as far as the ledger knows: Stripe decides."""
    payment = read_payment(connection, str(bill.stripe_invoice_id))
    if payment is None:
        notes = read_credit_notes(connection, [bill.id])
        return bill.invoice_cents - sum(each.cents for each in notes if each.outcome != "refused")
    left = bill.invoice_cents - known_back_cents(connection, payment)
    due_cents = payment.amount_due_cents - payment.amount_paid_cents
    return min(left, due_cents) if payment.status == "open" else left


def other_months_waiting(connection: Connection, user_id: str, month: Month) -> list[Month]:
    """Return the user's other months that still lack an invoice, the oldest first."""
    latest: dict[str, Bill] = {}
    for each in bills_of(connection, user_id, limit=_MOST_BILLS):
        # Generations come newest first.
        latest.setdefault(each.bill.month, each.bill)
    waiting = (bill.month for bill in latest.values() if is_undone(bill.state, bill.reason))
    return sorted(Month.parse(each) for each in waiting if each != str(month))
