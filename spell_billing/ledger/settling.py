"""Bills follow their invoices' payments, without the month's lock: paid, failed, uncollectible, overdue.

A billing run may hold a month for an hour, and a payment does not wait for it. So each change starts from the
state that was read in its own transaction, and only ever moves a bill between states of a standing invoice;
the holder of the month reckons with that (`ledger/changes.py`).
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.column_types import read_as
from spell_billing.ledger.money_tables import payments
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.queries import of_drafted_months
from spell_billing.ledger.rows import Actor, Bill
from spell_billing.ledger.schema import audit, invoices

FOLLOWED = "status_followed"
"""The action in the audit trail. It changes no amount."""

OVERDUE = "overdue"
"""The action that says that a bill was not paid in time; the bill's state stays."""

UNSETTLED = (State.FINALIZED, State.PAYMENT_FAILED)
"""Stripe may still collect."""

_OLDEST_OVERDUE = timedelta(days=30)
"""What became overdue longer ago is not marked: nobody is suspended because this was switched on."""

_ROWS_AT_ONCE = 1_000


def settle(
    connection: Connection,
    *,
    actor: Actor | None = None,
    invoice_ids: Collection[str] | None = None,
    back: bool = False,
) -> int:
    """Bring bills' states up to what is known of their payments, and return how many changed.

    All invoices, up to a thousand, or those that are named. With `back` they were read just now: a paid bill
    follows one that is open again. The audit trail names the actor, or the way the news came.

    A row that another transaction is writing is left for the next time. Void invoices are not settled here:
    parking a bill is for the holder of its month.
    """
    query = (
        sa.select(invoices.c.id, invoices.c.state, invoices.c.user_id.label("bill_user_id"), payments)
        .join(payments, payments.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .where(_behind(back=back), payments.c.status != "void")
        .where(
            of_drafted_months()
            if invoice_ids is None
            else invoices.c.stripe_invoice_id.in_(list(invoice_ids))
        )
        .order_by(invoices.c.id)
        .limit(_ROWS_AT_ONCE)
        .with_for_update(of=invoices, skip_locked=True)
    )
    now = datetime.now(UTC)
    updates, entries = [], []
    for row in connection.execute(query):
        payment = msgspec.convert(row, Payment, from_attributes=True)
        updates.append({"bill_id": row.id, "new_state": payment.bill_state.value, "now": now})
        entries.append(
            {
                "actor": actor.name if actor else payment.way,
                "month": payment.month,
                "user_id": row.bill_user_id,
                "generation": payment.generation,
                "action": FOLLOWED,
                "from_state": row.state,
                "to_state": payment.bill_state.value,
                "stripe_invoice_id": payment.stripe_invoice_id,
                "detail": _detail(payment),
            }
        )
    if updates:
        connection.execute(_UPDATE, updates)
        write_audit(connection, actor or Actor(""), now, *entries)
    return len(updates)


_UPDATE = (
    invoices.update()
    .where(invoices.c.id == sa.bindparam("bill_id"))
    .values(state=sa.bindparam("new_state"), updated_at=sa.bindparam("now"))
)


def _behind(*, back: bool) -> sa.ColumnElement[bool]:
    """Return the condition for bills behind their payment; unless `back`, none returns from being paid."""
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


def voided_bills(connection: Connection, limit: int) -> list[Bill]:
    """Return bills whose invoice Stripe says is void, while the ledger says that it stands.

    One that is paid too: a bank debit comes back, and the invoice is voided, before anybody looks.
    """
    query = (
        sa.select(invoices)
        .join(payments, payments.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .where(payments.c.status == "void", invoices.c.state.in_([*INVOICED]))
        .order_by(invoices.c.id)
        .limit(limit)
    )
    return read_as(connection, Bill, query)


def mark_overdue(connection: Connection, after: timedelta, now: datetime) -> int:
    """Write an audit entry, once, for each bill whose invoice is unpaid this long after it was to be paid.

    That is its due date where it is paid by transfer, else its finalization. One that Stripe has given up on
    (uncollectible) is overdue at once. One process at a time may call this. Return how many were written;
    more than a thousand come in several calls.
    """
    same = ("month", "user_id", "generation")
    marked = audit.alias()
    known = sa.exists().where(
        marked.c.action == OVERDUE, *(marked.c[name] == invoices.c[name] for name in same)
    )
    given_up = invoices.c.state == State.UNCOLLECTIBLE.value
    unpaid = sa.and_(of_drafted_months(), sa.or_(invoices.c.state.in_([*UNSETTLED]), given_up))
    net_days = _net_days(connection)
    entries: list[dict[str, Any]] = []
    for days in connection.scalars(sa.select(net_days).where(unpaid).distinct().order_by(net_days)).all():
        late = now - after - timedelta(days=days)
        query = (
            sa.select(*(invoices.c[name] for name in (*same, "stripe_invoice_id", "state")))
            .where(unpaid, net_days == days, sa.or_(invoices.c.finalized_at <= late, given_up))
            .where(invoices.c.finalized_at >= late - _OLDEST_OVERDUE)
            .where(invoices.c.stripe_invoice_id.is_not(None), ~known)
            .order_by(invoices.c.id)
            .limit(_ROWS_AT_ONCE - len(entries))
        )
        entries += [{**row} for row in connection.execute(query).mappings()]
    for entry in entries:
        entry["from_state"] = entry["to_state"] = entry.pop("state")
        entry["action"] = OVERDUE
    write_audit(connection, Actor("events_out"), now, *entries)
    return len(entries)


def _net_days(connection: Connection) -> sa.ColumnElement[int]:
    """Return in how many days after its finalization a bill's invoice is due; 0 where it is charged."""
    is_text = connection.dialect.name == "sqlite"
    terms = sa.type_coerce(invoices.c.terms, sa.JSON) if is_text else sa.cast(invoices.c.terms, sa.JSON)
    return sa.func.coalesce(terms["net_days"].as_integer(), sa.literal(0))


def last_action(connection: Connection, /, **about: Any) -> str | None:
    """Return the newest audited action with these columns (`month`, `user_id`, `generation`), or None.

    What comes beside a run that holds the month is no step of its work, and left out.
    """
    query = sa.select(audit.c.action).filter_by(**about).where(audit.c.action.not_in([FOLLOWED, OVERDUE]))
    action: str | None = connection.scalar(query.order_by(audit.c.id.desc()).limit(1))
    return action
