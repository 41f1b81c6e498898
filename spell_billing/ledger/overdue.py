"""Bills that are not paid in time: each is written into the audit trail once, for the platform to be told."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.outcomes import State
from spell_billing.ledger.schema import audit, invoices
from spell_billing.ledger.settling import OVERDUE, UNSETTLED

OLDEST = timedelta(days=30)
"""What became overdue longer ago is not marked: nobody is suspended because this was switched on."""

_ACTOR = "events_out"
_ROWS_AT_ONCE = 1_000


def mark_overdue(connection: Connection, after: timedelta, now: datetime) -> int:
    """Write an entry for each bill whose invoice is still unpaid this long after it was finalized.

    One that Stripe has given up on (uncollectible) is overdue at once. One process at a time may call this.

    Args:
        connection: To the ledger, in a transaction.
        after: How long after its finalization an invoice is overdue.
        now: The present, an aware datetime.

    Returns:
        How many were written; more than a thousand come in several calls.
    """
    same = ("month", "user_id", "generation")
    marked = audit.alias()
    known = sa.exists().where(
        marked.c.action == OVERDUE, *(marked.c[name] == invoices.c[name] for name in same)
    )
    late = sa.and_(
        invoices.c.state.in_([state.value for state in UNSETTLED]), invoices.c.finalized_at <= now - after
    )
    values: dict[str, sa.ColumnElement[object]] = {
        "at": sa.literal(now, audit.c.at.type),
        "actor": sa.literal(_ACTOR),
        "run_id": sa.literal(""),
        **{name: invoices.c[name] for name in same},
        "action": sa.literal(OVERDUE),
        "from_state": invoices.c.state,
        "to_state": invoices.c.state,
        "stripe_invoice_id": invoices.c.stripe_invoice_id,
    }
    chosen = (
        sa.select(*values.values())
        .where(
            invoices.c.finalized_at >= now - after - OLDEST,
            sa.or_(late, invoices.c.state == State.UNCOLLECTIBLE.value),
            invoices.c.stripe_invoice_id.is_not(None),
            ~known,
        )
        .order_by(invoices.c.id)
        .limit(_ROWS_AT_ONCE)
    )
    insert = audit.insert().from_select([*values], chosen)
    return connection.execute(insert.execution_options(preserve_rowcount=True)).rowcount
