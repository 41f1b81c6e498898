"""Writes changes of bills with their audit entries, beside payments that come in at the same time.

The holder of a month's lock is alone in changing its bills, but for one thing: a bill with a standing invoice
moves between finalized, payment failed, paid and uncollectible as Stripe collects (`ledger/settling.py`).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.payments import keep_payments
from spell_billing.ledger.rows import Actor, Bill, Change
from spell_billing.ledger.schema import invoices


def write_changes(
    connection: Connection, changes: Sequence[Change], actor: Actor, now: datetime
) -> list[Bill] | None:
    """Write changes, each with its audit entry, in the connection's transaction.

    A bill that a payment moved meanwhile is changed from where it is now: a change that keeps the state keeps
    the new one, a change that leaves the standing invoices (parked, void) holds. Each bill comes once.

    Returns:
        The bills as they are now, in the order of the changes; None when a bill is no longer in the state its
        change started from, and the transaction must be given up.
    """
    states = _lock_standing(connection, changes)
    changes = [_from_where_it_is(change, states.get(change.before.id)) for change in changes]
    after = [replace(change.after, updated_at=now, run_id=actor.run_id) for change in changes]
    parameters = [
        {"bill_id": change.before.id, "state_before": change.before.state}
        | {f"new_{name}": getattr(bill, name) for name in _CHANGEABLE}
        for change, bill in zip(changes, after, strict=True)
    ]
    if connection.execute(_UPDATE, parameters).rowcount != len(changes):
        return None
    keep_payments(connection, [change.payment for change in changes if change.payment is not None])
    entries = (
        {
            "month": bill.month,
            "user_id": bill.user_id,
            "generation": bill.generation,
            "action": change.action,
            "from_state": change.before.state,
            "to_state": bill.state,
            "stripe_invoice_id": bill.stripe_invoice_id or change.before.stripe_invoice_id,
            "stripe_request_id": bill.stripe_request_id,
            "detail": change.detail,
        }
        for change, bill in zip(changes, after, strict=True)
    )
    write_audit(connection, actor, now, *entries)
    return after


def _lock_standing(connection: Connection, changes: Sequence[Change]) -> dict[int, State]:
    """Return the present state of the bills that payments may move, and keep them where they are."""
    ids = [change.before.id for change in changes if change.before.state in INVOICED]
    if not ids:
        return {}
    query = (
        sa.select(invoices.c.id, invoices.c.state)
        .where(invoices.c.id.in_(ids))
        .order_by(invoices.c.id)
        .with_for_update()
    )
    return {bill_id: State(state) for bill_id, state in connection.execute(query)}


def _from_where_it_is(change: Change, state: State | None) -> Change:
    before, after = change.before, change.after
    if state is None or state is before.state or state not in INVOICED:
        return change
    if after.state is before.state:
        after = replace(after, state=state)
    elif after.state in INVOICED:
        return change
    return replace(change, before=replace(before, state=state), after=after)


_FIXED = {"id", "month", "user_id", "generation", "created_at"}
_CHANGEABLE = [column.name for column in invoices.columns if column.name not in _FIXED]
_UPDATE = (
    invoices.update()
    .where(invoices.c.id == sa.bindparam("bill_id"), invoices.c.state == sa.bindparam("state_before"))
    .values({name: sa.bindparam(f"new_{name}") for name in _CHANGEABLE})
)
