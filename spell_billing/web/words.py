"""The states of months and bills in plain words: for the people who are billed, and for those who bill."""

from collections.abc import Mapping
from datetime import UTC, datetime

from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.browsing import UserBill
from spell_billing.ledger.month_state import MonthState

_BEING_PREPARED = "Being prepared"
_LOOKED_INTO = "Not sent yet: we are looking into it"

_FOR_USERS: Mapping[State, str] = {
    State.PLANNED: _BEING_PREPARED,
    State.DRAFTED: _BEING_PREPARED,
    State.FINALIZED: "Sent, to be paid",
    State.PAID: "Paid",
    State.PAYMENT_FAILED: "Payment failed",
    State.UNCOLLECTIBLE: "Not paid, and no longer collected",
    State.VOID: "Cancelled, nothing to pay",
    State.SKIPPED: "Nothing to pay",
    State.HELD: _LOOKED_INTO,
    State.FAILED: _LOOKED_INTO,
    State.PARKED: _LOOKED_INTO,
    State.SETTLED: "Settled with you directly",
}
"""What failed on our side is ours to fix: a user is told that it is looked into, not what it is."""

_FOR_FINANCE: Mapping[State, str] = {
    State.PLANNED: "Planned",
    State.DRAFTED: "Draft at Stripe",
    State.FINALIZED: "Sent, not paid yet",
    State.PAID: "Paid",
    State.PAYMENT_FAILED: "Payment failed",
    State.UNCOLLECTIBLE: "Uncollectible",
    State.VOID: "Void",
    State.SKIPPED: "Skipped, nothing due",
    State.HELD: "Held",
    State.FAILED: "Failed, no invoice",
    State.PARKED: "Parked, somebody must look",
    State.SETTLED: "Settled by hand",
}

_MONTHS: Mapping[MonthState, str] = {
    "open": "Not over yet",
    "unbilled": "Not billed yet",
    "in_review": "In review, waiting for approval",
    "partial": "Billed in part",
    "billed": "Billed",
}


def for_user(item: UserBill) -> str:
    """Tell a user in a sentence where their bill stands."""
    bill, payment = item.bill, item.payment
    if bill.reason is Reason.CREDIT_CARRIED:
        return "Nothing to pay: the credit goes to a later invoice"
    text = _FOR_USERS[bill.state]
    if bill.state is State.PAID and item.refunded_cents:
        return f"{text}, {format_money(item.refunded_cents, bill.currency, grouping=True)} refunded"
    if bill.state is State.PAYMENT_FAILED and payment is not None:
        again = payment.next_attempt_at
        return f"{text}, tried again on {day(again)}" if again else f"{text}, please pay the invoice"
    return text


def for_finance(state: State) -> str:
    """Name a bill's state for those who bill."""
    return _FOR_FINANCE[state]


def of_month(state: MonthState) -> str:
    """Name a month's state."""
    return _MONTHS[state]


def of_code(code: str) -> str:
    """Write a code for people, as that of a reason or of a run's result: `no billing account`."""
    return code.replace("_", " ").replace("stripe", "Stripe")


def day(moment: datetime) -> str:
    """Write the day of an aware datetime in UTC: `3 November 2026`."""
    utc = moment.astimezone(UTC)
    return f"{utc.day} {Month.containing(utc).label}"


def minute(moment: datetime) -> str:
    """Write an aware datetime in UTC to the minute: `3 November 2026, 14:05 UTC`."""
    return f"{day(moment)}, {moment.astimezone(UTC):%H:%M} UTC"
