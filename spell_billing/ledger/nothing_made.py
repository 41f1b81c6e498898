"""Months whose billing was begun and that certainly have nothing at Stripe: their pin does not hold.

The runs that begin them say so, in a note that goes before the next of them sends anything: a run that is
killed leaves none, and its month stays pinned.
"""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import UNSENT
from spell_billing.ledger.cursors import drop_cursor, is_redrafting, move_cursor, read_cursor
from spell_billing.ledger.queries import is_counted_on, read_month
from spell_billing.ledger.schema import cursors, invoices, months

_NOTE = "nothing_made:"


def note_nothing_made(connection: Connection, month: Month) -> None:
    """Note that no run has made anything of the month at Stripe, nor may have."""
    move_cursor(connection, f"{_NOTE}{month}", str(month))


def forget_nothing_made(connection: Connection, month: Month) -> None:
    """Take the note back, before something may be made."""
    drop_cursor(connection, f"{_NOTE}{month}")


def starts_over(connection: Connection, month: Month) -> bool:
    """Return whether the next run freezes and drafts anew a month that was begun: nothing was made of it.

    Not where the month is done, where a person settled one of its bills, where another month counts with it
    as it is, or where a run was killed while it drafted waiting bills again.
    """
    if read_cursor(connection, f"{_NOTE}{month}") is None or is_redrafting(connection, month):
        return False
    record = read_month(connection, month)
    if record is None or record.billing_started_at is None or record.billed_at is not None:
        return False
    return not has_left_something(connection, month) and not is_counted_on(connection, record)


def has_left_something(connection: Connection, month: Month) -> bool:
    """Return whether a bill of the month names an invoice, or is in a state that is no draft's."""
    states = [state.value for state in UNSENT]
    sent = sa.or_(invoices.c.state.not_in(states), invoices.c.stripe_invoice_id.is_not(None))
    return bool(connection.scalar(sa.select(sa.exists().where(invoices.c.month == str(month), sent))))


def begun_months_that_may_have_something(connection: Connection) -> bool:
    """Return whether any month was begun of which it is not certain that nothing was made."""
    noted = sa.exists().where(cursors.c.name == sa.literal(_NOTE) + months.c.month)
    begun = sa.exists().where(months.c.billing_started_at.is_not(None), ~noted)
    return bool(connection.scalar(sa.select(begun)))
