"""What is still open for one user: an erased user must have nothing left to bill, pay or tell."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.late import late_usage
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import UNDONE, Reason, State
from spell_billing.ledger.credits import credits_of
from spell_billing.ledger.history import read_history
from spell_billing.ledger.message_tables import outbox
from spell_billing.ledger.money_tables import credit_notes
from spell_billing.ledger.outbox import EVENT, MAIL, is_waiting
from spell_billing.ledger.queries import read_months
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.schema import invoices, moves

_UNPAID = frozenset({State.FINALIZED, State.PAYMENT_FAILED})
_ANY_MONTH = Month.parse("9998-12")


def open_matters(connection: Connection, user_id: str) -> list[str]:
    """Name what is open for a user, in words, oldest month first; empty when nothing is."""
    recorded = read_months(connection)
    started = [record for record in recorded if record.billing_started_at is not None]
    return [
        *_open_bills(connection, user_id, {record.month for record in started}),
        *_left_for_later(connection, user_id),
        *_credits_begun(connection, user_id),
        *_mail(connection, user_id),
        *_moves(connection, user_id, started),
    ]


def _open_bills(connection: Connection, user_id: str, started: set[str]) -> list[str]:
    columns = (invoices.c.month, invoices.c.state, invoices.c.reason, invoices.c.stripe_invoice_id)
    rows = connection.execute(
        sa.select(*columns)
        .where(invoices.c.user_id == user_id)
        .order_by(invoices.c.month, invoices.c.generation)
    ).all()
    latest = {row.month: row for row in rows}
    found = []
    for row in rows:
        state = State(row.state)
        to_bill_again = state is State.VOID and row.reason == Reason.VOIDED and row is latest[row.month]
        if row.month not in started:
            found.append(f"{row.month} is drafted and not billed yet")
        elif state in UNDONE:
            found.append(f"the bill for {row.month} is {state}")
        elif state in _UNPAID:
            found.append(f"invoice {row.stripe_invoice_id} for {row.month} is not paid")
        elif to_bill_again:
            found.append(f"the bill for {row.month} was voided to be billed again")
    return list(dict.fromkeys(found))


def _left_for_later(connection: Connection, user_id: str) -> list[str]:
    found = [
        f"a credit of {format_money(each.amount_cents, each.currency)} is not used"
        for each in credits_of(connection, user_id)
    ]
    history = read_history(connection, _ANY_MONTH, ())
    late = late_usage({}, history.billed, heir_of=history.heirs.heir_of).get(user_id, ())
    months = dict.fromkeys(str(each.usage_month) for each in late)
    return found + [f"usage of {month} is left for a later invoice" for month in months]


def _credits_begun(connection: Connection, user_id: str) -> list[str]:
    begun = (
        sa.select(credit_notes.c.cents, invoices.c.currency, invoices.c.month)
        .join(invoices, invoices.c.id == credit_notes.c.bill_id)
        .where(invoices.c.user_id == user_id, credit_notes.c.outcome.is_(None))
    )
    return [
        f"a credit of {format_money(cents, currency)} for {month} was begun and not completed"
        for cents, currency, month in connection.execute(begun)
    ]


def _mail(connection: Connection, user_id: str) -> list[str]:
    is_event = outbox.c.channel.startswith(EVENT)
    waiting = sa.select(outbox.c.month, is_event).where(
        outbox.c.user_id == user_id, sa.or_(outbox.c.channel == MAIL, is_event), is_waiting()
    )
    return [
        f"{'an event for the platform' if event else 'a mail'} about {month} waits to be sent"
        for month, event in connection.execute(waiting)
    ]


def _moves(connection: Connection, user_id: str, started: list[MonthRecord]) -> list[str]:
    """Name moves that no billed month has netted: without the id, late usage could not be netted any more."""
    query = sa.select(moves.c.at, moves.c.from_user, moves.c.to_user).where(
        sa.or_(moves.c.from_user == user_id, moves.c.to_user == user_id)
    )
    newest = max((record.drafted_at for record in started), default=None)
    return [
        f"usage moved from {row.from_user} to {row.to_user}, and no month was billed since"
        for row in connection.execute(query)
        if newest is None or row.at > newest
    ]
