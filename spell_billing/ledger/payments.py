"""What is known of each invoice's payment: the latest that Stripe said, in whatever order it arrived."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.column_types import insert_new, read_as
from spell_billing.ledger.money_tables import payments

_ROWS_AT_ONCE = 500
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_RANKS = {"open": 0, "uncollectible": 1, "paid": 2, "void": 3}
"""Events come in any order, so a status only rises: open, uncollectible, paid, and void for good. That a paid
invoice is open again, only reading the invoice itself tells."""


@dataclass(frozen=True, slots=True)
class Payment:
    """How the payment of one invoice stands: a row of `ledger_payments`. Amounts in minor units."""

    stripe_invoice_id: str
    month: str
    user_id: str
    generation: int
    status: str
    attempts: int
    failed_attempts: int
    next_attempt_at: datetime | None
    amount_due_cents: int
    amount_paid_cents: int
    decline_code: str | None
    message: str | None
    hosted_invoice_url: str | None
    invoice_pdf: str | None
    as_of: datetime
    way: str
    moved_cents: int = 0
    from_balance_cents: int = 0
    credited_cents: int = 0
    returned_outside_cents: int = 0
    to_balance_cents: int = 0

    @property
    def failing(self) -> bool:
        """Whether an attempt failed and the invoice is still to be paid."""
        return self.status == "open" and self.failed_attempts > 0

    @property
    def bill_state(self) -> State:
        """The state its bill should have; `VOID` where a person, or our `void`, voided the invoice."""
        if self.status == "open":
            return State.PAYMENT_FAILED if self.failing else State.FINALIZED
        return {"paid": State.PAID, "uncollectible": State.UNCOLLECTIBLE, "void": State.VOID}[self.status]


def payment_in_words(
    payment: Payment, currency: str, *, refunded_cents: int = 0, disputed_cents: int = 0
) -> str:
    """Say what became of an invoice's payment: a paid invoice need not have been paid with money."""

    def money(cents: int) -> str:
        return format_money(cents, currency, grouping=True)

    parts = [
        (payment.amount_paid_cents, "paid"),
        (payment.moved_cents, "moved to the next invoice"),
        (payment.from_balance_cents, "paid from the balance"),
        (payment.credited_cents, "taken off by a credit note"),
        (refunded_cents, "refunded"),
        (disputed_cents, "taken back by the bank in a dispute"),
    ]
    if payment.status == "open":
        parts.append((payment.amount_due_cents - payment.amount_paid_cents, "due"))
    return ", ".join(f"{money(cents)} {words}" for cents, words in parts if cents > 0) or "nothing due"


def newest(one: Payment, other: Payment) -> Payment:
    """Combine two statements about one invoice, in either order.

    Which is later follows from what Stripe counts up: the status, then the attempts. The time decides between
    equals only, because an event can arrive late.
    """
    later, earlier = (one, other) if _order(one) >= _order(other) else (other, one)
    reason = one if _reason_order(one) >= _reason_order(other) else other
    return replace(
        later,
        failed_attempts=max(one.failed_attempts, other.failed_attempts),
        decline_code=reason.decline_code,
        message=reason.message,
        hosted_invoice_url=later.hosted_invoice_url or earlier.hosted_invoice_url,
        invoice_pdf=later.invoice_pdf or earlier.invoice_pdf,
        returned_outside_cents=max(one.returned_outside_cents, other.returned_outside_cents),
        to_balance_cents=max(one.to_balance_cents, other.to_balance_cents),
    )


def _as_read(before: Payment, read: Payment) -> Payment:
    """Return what was read, with what is known beyond it of the last failure."""
    reason = read if read.decline_code is not None else before
    return replace(
        read,
        failed_attempts=max(before.failed_attempts, read.failed_attempts),
        decline_code=reason.decline_code,
        message=reason.message,
    )


def _order(payment: Payment) -> tuple[Any, ...]:
    return (
        _RANKS[payment.status],
        payment.attempts,
        payment.as_of,
        payment.amount_paid_cents,
        payment.credited_cents,
        payment.moved_cents,
        payment.from_balance_cents,
        payment.next_attempt_at or _LONG_AGO,
        -payment.amount_due_cents,
        payment.hosted_invoice_url or "",
        payment.invoice_pdf or "",
        payment.way,
    )


def _reason_order(payment: Payment) -> tuple[Any, ...]:
    known = payment.decline_code is not None
    return payment.failed_attempts, known, payment.as_of, payment.decline_code or "", payment.message or ""


def keep_payments(connection: Connection, said: Iterable[Payment], *, as_it_is: bool = False) -> int:
    """Write what Stripe said, in the connection's transaction, and return how many rows are new or changed.

    `as_it_is`: it was read from the invoices just now, and replaces what was known, even where a paid invoice
    is open again.
    """
    by_invoice: dict[str, Payment] = {}
    for each in said:
        known = by_invoice.get(each.stripe_invoice_id)
        by_invoice[each.stripe_invoice_id] = each if known is None else newest(known, each)
    changed = 0
    # In the order of ids: two writers at once wait for each other, and never in a circle.
    in_order = [by_invoice[invoice_id] for invoice_id in sorted(by_invoice)]
    for start in range(0, len(in_order), _ROWS_AT_ONCE):
        changed += _keep_group(connection, in_order[start : start + _ROWS_AT_ONCE], as_it_is=as_it_is)
    return changed


def _keep_group(connection: Connection, group: Sequence[Payment], *, as_it_is: bool) -> int:
    added = insert_new(connection, payments, [asdict(payment) for payment in group])
    ids = [payment.stripe_invoice_id for payment in group]
    query = (
        sa.select(payments)
        .where(payments.c.stripe_invoice_id.in_(ids))
        .order_by(payments.c.stripe_invoice_id)
        .with_for_update()
    )
    known = {payment.stripe_invoice_id: payment for payment in read_as(connection, Payment, query)}
    changes = []
    for each in group:
        before = known[each.stripe_invoice_id]
        # The first to name the bill is right: metadata of an invoice can be changed by hand.
        # Two may read an invoice at once: what was read earlier and comes later replaces nothing.
        replaces = as_it_is and before.as_of <= each.as_of
        known_now = _as_read(before, each) if replaces else newest(before, each)
        after = replace(known_now, month=before.month, user_id=before.user_id, generation=before.generation)
        if after != before:
            changes.append({f"new_{name}": value for name, value in asdict(after).items()})
    if changes:
        connection.execute(_UPDATE, changes)
    return added + len(changes)


_UPDATE = (
    payments.update()
    .where(payments.c.stripe_invoice_id == sa.bindparam("new_stripe_invoice_id"))
    .values({each.name: sa.bindparam(f"new_{each.name}") for each in fields(Payment)})
)


def read_payment(connection: Connection, stripe_invoice_id: str) -> Payment | None:
    """Return what is known of an invoice's payment, or None."""
    return payments_of(connection, [stripe_invoice_id]).get(stripe_invoice_id)


def payments_of(connection: Connection, invoice_ids: Collection[str]) -> dict[str, Payment]:
    """Return what is known of the invoices' payments, by invoice id."""
    query = sa.select(payments).where(payments.c.stripe_invoice_id.in_(list(invoice_ids)))
    return {each.stripe_invoice_id: each for each in read_as(connection, Payment, query)}


def read_payments(connection: Connection, month: Month) -> list[Payment]:
    """Return what is known of the payments of a month's invoices, by invoice id."""
    query = sa.select(payments).where(payments.c.month == str(month)).order_by(payments.c.stripe_invoice_id)
    return read_as(connection, Payment, query)
