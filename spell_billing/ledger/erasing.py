"""Replaces a user's id by a pseudonym in every table of the ledger, in one transaction.

An erased user must have nothing left to bill, pay or tell: `open_matters`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.erasure import Erasure
from spell_billing.core.errors import LedgerError
from spell_billing.core.late import late_usage
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import UNDONE
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.column_types import metadata, read_as
from spell_billing.ledger.credits import AFTER_ALL, left_of
from spell_billing.ledger.cursors import drop_cursor, move_cursor
from spell_billing.ledger.fees import read_fees
from spell_billing.ledger.grants import grants_for
from spell_billing.ledger.history import read_history
from spell_billing.ledger.money_tables import credit_notes, grants
from spell_billing.ledger.month_state import is_undone
from spell_billing.ledger.outbox import EVENT, MAIL, is_waiting
from spell_billing.ledger.queries import drafts_hash, started_months
from spell_billing.ledger.rows import Actor, Bill, MonthRecord
from spell_billing.ledger.schema import audit, cursors, decisions, events, invoices, moves, outbox, reviews
from spell_billing.ledger.settling import UNSETTLED

_UNFINISHED = "erasure:"
_IDS = frozenset({"user_id", "from_user", "to_user"})
TEXTS = {
    "ledger_invoices": ("message",),
    "ledger_audit": ("detail",),
    "ledger_payments": ("message",),
    "ledger_events": ("content",),
    "ledger_cursors": ("value",),
    "ledger_outbox": ("payload", "error"),
    "ledger_reviews": ("findings",),
    "ledger_decisions": ("reason",),
    "ledger_moves": ("reason",),
    "ledger_credit_notes": ("reason",),
    "ledger_credits": ("reason",),
}
"""Columns of text or JSON in which a user may be named. A test holds that no other column can name one."""
_GUARDED = (audit, grants)
"""Tables whose triggers refuse every change."""


def begin_erasure(connection: Connection, erasure: Erasure) -> None:
    """Keep which pseudonym a user gets, until all is done: a repetition after a crash uses the same."""
    move_cursor(connection, _UNFINISHED + erasure.pseudonym, erasure.user_id)


def unfinished_erasure(connection: Connection, user_id: str) -> Erasure | None:
    """Return the erasure of a user that was begun and not completed."""
    return next((each for each in _unfinished(connection) if each.user_id == user_id), None)


def require_no_unfinished_erasure(connection: Connection) -> None:
    """Refuse to go on while a user has one name here and another at Stripe or in the frozen files.

    Raises:
        LedgerError: naming the user.
    """
    for each in _unfinished(connection):
        raise LedgerError(
            f"The erasure of user {each.user_id} was not completed.",
            remedy="Run `spell-billing erase-user` for the user again; then go on.",
        )


def require_audit_can_be_rewritten(connection: Connection) -> None:
    """Refuse before anything is done where the database would not let the audit trail be rewritten.

    Raises:
        LedgerError: when the user of the connection does not own the table.
    """
    owns = sa.text(
        "SELECT pg_has_role(current_user, relowner, 'USAGE') FROM pg_class "
        "WHERE oid = 'ledger_audit'::regclass"
    )
    if connection.dialect.name == "postgresql" and not connection.scalar(owns):
        raise LedgerError(
            "The user of DATABASE_URL does not own ledger_audit, and only its owner may rewrite entries.",
            remedy="Erase with the database user that made the ledger (`spell-billing init-db`).",
        )


def erase_in_ledger(
    connection: Connection, erasure: Erasure, *, actor: Actor, detail: str, now: datetime
) -> None:
    """Replace the id in all tables, write the erasure into the audit trail, and end it.

    All in the connection's transaction. `detail` says what was erased, without the id.
    """
    if connection.dialect.name == "postgresql":
        # The handler of events reads the name of a bill and writes it in one transaction.
        connection.execute(sa.text(f"LOCK TABLE {events.name} IN EXCLUSIVE MODE"))
    # What was approved covers the ids: an approval is to stand for the same drafts under the new name.
    has_bill = sa.exists().where(invoices.c.month == reviews.c.month, invoices.c.user_id == erasure.user_id)
    months = connection.scalars(sa.select(reviews.c.month).where(has_bill)).all()
    reviewed = {month: drafts_hash(connection, Month.parse(month)) for month in months}
    drop_cursor(connection, _UNFINISHED + erasure.pseudonym)
    with _unguarded(connection):
        for table in metadata.sorted_tables:
            for column in table.columns:
                if column.name in _IDS:
                    renamed = {column.name: erasure.pseudonym}
                    connection.execute(table.update().where(column == erasure.user_id).values(renamed))
            for name in TEXTS.get(table.name, ()):
                _rewrite(connection, table, table.c[name], erasure)
    for month, before in reviewed.items():
        after = drafts_hash(connection, Month.parse(month))
        for table, column in ((reviews, reviews.c.drafts_hash), (decisions, decisions.c.content_hash)):
            same = sa.and_(table.c.month == month, column == before)
            connection.execute(table.update().where(same).values({column.name: after}))
    entry = {"month": str(Month.containing(now)), "user_id": erasure.pseudonym}
    write_audit(connection, actor, now, {**entry, "action": "user_erased", "detail": detail})


def _unfinished(connection: Connection) -> list[Erasure]:
    rows = connection.execute(
        sa.select(cursors.c.name, cursors.c.value)
        .where(cursors.c.name.startswith(_UNFINISHED))
        .order_by(cursors.c.moved_at)
    )
    return [Erasure(value, name.removeprefix(_UNFINISHED)) for name, value in rows]


def _rewrite(connection: Connection, table: sa.Table, column: sa.Column[str], erasure: Erasure) -> None:
    keys = list(table.primary_key.columns)
    # JSON writes some characters of an id in another way.
    escaped = {json.dumps(form)[1:-1] for form in erasure.forms}
    holds = sa.or_(*(column.contains(form, autoescape=True) for form in erasure.forms | escaped))
    for *key, text in connection.execute(sa.select(*keys, column).where(holds)).all():
        new = _rewritten(text, erasure)
        if new != text:
            same_row = sa.and_(*(each == value for each, value in zip(keys, key, strict=True)))
            connection.execute(table.update().where(same_row).values({column.name: new}))


def _rewritten(text: str, erasure: Erasure) -> str:
    try:
        document: Any = json.loads(text)
    except ValueError:
        return erasure.in_text(text)
    if not isinstance(document, (dict, list)):
        return erasure.in_text(text)
    renamed = erasure.in_json(document)
    return text if renamed == document else json.dumps(renamed, ensure_ascii=False, separators=(",", ":"))


@contextmanager
def _unguarded(connection: Connection) -> Iterator[None]:
    """Let append-only tables be rewritten within this transaction: rolled back, their guards never went."""
    if connection.dialect.name == "postgresql":
        for table in _GUARDED:
            connection.execute(sa.text(f"ALTER TABLE {table.name} DISABLE TRIGGER {table.name}_append_only"))
        yield
        for table in _GUARDED:
            connection.execute(sa.text(f"ALTER TABLE {table.name} ENABLE TRIGGER {table.name}_append_only"))
        return
    guards = [f"{table.name}_no_update" for table in _GUARDED]
    made_by = sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = :name")
    statements = [str(connection.scalar(made_by, {"name": guard})) for guard in guards]
    for guard in guards:
        connection.exec_driver_sql(f"DROP TRIGGER {guard}")
    yield
    for statement in statements:
        connection.exec_driver_sql(statement)


def open_matters(connection: Connection, user_id: str) -> list[str]:
    """Name what is open for a user, in words, oldest month first; empty when nothing is."""
    started = started_months(connection)
    return [
        *_open_bills(connection, user_id, {record.month for record in started}),
        *_left_for_later(connection, user_id),
        *_fees_in_advance(connection, user_id, started),
        *_credits_begun(connection, user_id),
        *_mail(connection, user_id),
        *_moves(connection, user_id, started),
    ]


def _open_bills(connection: Connection, user_id: str, started: set[str]) -> list[str]:
    query = sa.select(invoices).where(invoices.c.user_id == user_id)
    bills = read_as(connection, Bill, query.order_by(invoices.c.month, invoices.c.generation))
    latest = {bill.month: bill for bill in bills}
    found = []
    for bill in bills:
        if bill.month not in started:
            found.append(f"{bill.month} is drafted and not billed yet")
        elif bill.state in UNDONE:
            found.append(f"the bill for {bill.month} is {bill.state}")
        elif bill.state in UNSETTLED:
            found.append(f"invoice {bill.stripe_invoice_id} for {bill.month} is not paid")
        elif is_undone(bill.state, bill.reason) and bill is latest[bill.month]:
            found.append(f"the bill for {bill.month} was voided to be billed again")
    return list(dict.fromkeys(found))


def _left_for_later(connection: Connection, user_id: str) -> list[str]:
    found = [
        f"a credit of {format_money(each.amount_cents, each.currency)} is not used"
        if each.amount_cents > 0
        else f"{format_money(-each.amount_cents, each.currency)} is left for a later invoice (a row of "
        f"{each.amount_cents} cents that is billed gives it up)"
        for each in left_of(connection, user_id)
    ]
    found += [
        f"{format_money(each.left_cents, each.currency)} of grant {each.grant_id} is not used"
        for each in grants_for(connection, user_id)
        if each.is_owed
    ]
    history = read_history(connection, AFTER_ALL, ())
    late = late_usage({}, history.billed, heir_of=history.heirs.heir_of).get(user_id, ())
    months = dict.fromkeys(str(each.usage_month) for each in late)
    return found + [f"usage of {month} is left for a later invoice" for month in months]


def _fees_in_advance(connection: Connection, user_id: str, started: list[MonthRecord]) -> list[str]:
    """Name fees in advance of the month to come: its bill gives back what the plans do not cost then."""
    if not started:
        return []
    month = Month.parse(started[-1].month).next()
    charged = read_fees(connection, month, [user_id]).get(user_id)
    if charged is None:
        return []
    found = [f"fees of {each.month} are to be corrected" for each in charged.earlier]
    if not charged.of_month.charged_cents:
        return found
    return [*found, f"fees of {month} were charged in advance, and {month} is not billed"]


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
