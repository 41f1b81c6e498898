"""Bills follow their invoices' payments: paid, payment failed, uncollectible. Without the month's lock.

A billing run may hold a month for an hour, and a payment does not wait for it. So each change starts from the
state that was read in its own transaction, and only ever moves a bill between states of a standing invoice;
the holder of the month reckons with that (`ledger/changes.py`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.outcomes import State
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import audit, invoices, months, payments

FOLLOWED = "status_followed"
"""The action in the audit trail. It changes no amount."""

OVERDUE = "overdue"
"""The action that says that a bill was not paid in time; the bill's state stays."""

BESIDE_RUNS = (FOLLOWED, OVERDUE)
"""Actions that come at any time, beside a run that holds the month: they are no step of its work."""

UNSETTLED = (State.FINALIZED, State.PAYMENT_FAILED)
"""Stripe may still collect."""

_FOLLOWING = (*UNSETTLED, State.UNCOLLECTIBLE)
"""A bill in another state has nothing to follow: it is paid, or has no standing invoice."""

_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class VoidedBill:
    """A bill with an invoice in the ledger's view, which Stripe says is void."""

    month: str
    user_id: str
    generation: int
    stripe_invoice_id: str


def settle(
    connection: Connection,
    *,
    actor: Actor | None = None,
    invoice_ids: Collection[str] | None = None,
    back: bool = False,
) -> int:
    """Bring bills' states up to what is known of their payments.

    A row that another transaction is writing is left for the next time. Void invoices are not settled here:
    parking a bill is for the holder of its month.

    Args:
        connection: To the ledger, in a transaction.
        actor: Who does it, for the audit trail; by default the way the news came.
        invoice_ids: Only these invoices'; by default all, up to a thousand.
        back: The invoices were read just now: a paid bill follows one that is open again.

    Returns:
        How many bills changed.
    """
    query = (
        sa.select(invoices.c.id, invoices.c.state, invoices.c.user_id.label("bill_user_id"), payments)
        .join(payments, payments.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .where(_behind(back=back), payments.c.status != "void")
        .order_by(invoices.c.id)
        .limit(_ROWS_AT_ONCE)
        .with_for_update(of=invoices, skip_locked=True)
    )
    if invoice_ids is None:
        # The months are few; with them the index by month and state serves.
        query = query.where(invoices.c.month.in_(sa.select(months.c.month)))
    else:
        query = query.where(invoices.c.stripe_invoice_id.in_(list(invoice_ids)))
    now = datetime.now(UTC)
    updates, entries = [], []
    for row in connection.execute(query).mappings():
        values = {str(name): value for name, value in row.items()}
        bill_id, before, user_id = (values.pop(name) for name in ("id", "state", "bill_user_id"))
        payment = Payment(**values)
        updates.append({"bill_id": bill_id, "new_state": payment.bill_state.value, "now": now})
        entries.append(
            {
                "at": now,
                "actor": actor.name if actor else payment.way,
                "run_id": actor.run_id if actor else "",
                "month": payment.month,
                "user_id": user_id,
                "generation": payment.generation,
                "action": FOLLOWED,
                "from_state": before,
                "to_state": payment.bill_state.value,
                "stripe_invoice_id": payment.stripe_invoice_id,
                "detail": _detail(payment),
            }
        )
    if updates:
        connection.execute(_UPDATE, updates)
        connection.execute(audit.insert(), entries)
    return len(updates)


_UPDATE = (
    invoices.update()
    .where(invoices.c.id == sa.bindparam("bill_id"))
    .values(state=sa.bindparam("new_state"), updated_at=sa.bindparam("now"))
)


def voided_bills(connection: Connection, limit: int) -> list[VoidedBill]:
    """Return bills whose invoice Stripe says is void, while the ledger says that it stands."""
    query = (
        sa.select(invoices.c.month, invoices.c.user_id, invoices.c.generation, invoices.c.stripe_invoice_id)
        .join(payments, payments.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .where(payments.c.status == "void", invoices.c.state.in_([state.value for state in _FOLLOWING]))
        .order_by(invoices.c.id)
        .limit(limit)
    )
    return [VoidedBill(*row) for row in connection.execute(query)]


def _behind(*, back: bool) -> sa.ColumnElement[bool]:
    """Choose bills that are behind their payment; unless `back`, none returns from being paid."""
    status, state = payments.c.status, invoices.c.state
    returned = sa.and_(state == State.PAID.value, status.in_(["open", "uncollectible"]))
    return sa.or_(
        returned if back else sa.false(),
        sa.and_(state == State.FINALIZED.value, sa.or_(status != "open", payments.c.failed_attempts > 0)),
        sa.and_(state == State.PAYMENT_FAILED.value, status != "open"),
        sa.and_(state == State.UNCOLLECTIBLE.value, status.in_(["paid", "void"])),
    )


def _detail(payment: Payment) -> str | None:
    if not payment.failing:
        return None
    again = f"{payment.next_attempt_at:%Y-%m-%d %H:%M} UTC" if payment.next_attempt_at else "none planned"
    return f"attempt {payment.failed_attempts} failed; next attempt: {again}"
