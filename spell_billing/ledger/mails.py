"""Mail to users in the outbox: what is to be mailed, and what is known by now of what it is about."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED
from spell_billing.ledger.column_types import read_as
from spell_billing.ledger.credit_notes import CreditKind, CreditNote, read_credit_notes
from spell_billing.ledger.cursors import move_cursor, read_cursor
from spell_billing.ledger.money_tables import credit_notes, payments
from spell_billing.ledger.outbox import MAIL, Message, Said, due, put, put_selected, words
from spell_billing.ledger.payments import Payment, payments_of
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import audit, invoices
from spell_billing.ledger.thresholds import THRESHOLD, Reached, reached_by_user

SINCE = "mail_since"
"""The cursor that holds when mail was first switched on: earlier invoices are not mailed."""
_LOOKED = "mail_looked"
_OVERLAP = timedelta(days=3)
"""How long after it was finalized an invoice can get into the ledger and still be mailed."""
_OLDEST = timedelta(days=30)
"""What happened longer ago is no news to the user: not mailed, however long nobody looked."""


_issued = (
    sa.select(credit_notes, invoices.c.month, invoices.c.user_id)
    .join(invoices, invoices.c.id == credit_notes.c.bill_id)
    .where(credit_notes.c.outcome == "issued")
    .subquery()
)


class Template(StrEnum):
    """The kinds of mail about an invoice; the other kind is `THRESHOLD`."""

    FINALIZED = "finalized"
    PAYMENT_FAILED = "payment_failed"
    CREDITED = "credited"


class GivenUp(StrEnum):
    """Why a mail will not be sent; `error` begins with the word."""

    NO_ADDRESS = "no_address"
    BAD_ADDRESS = "bad_address"
    REFUSED = "refused"
    OUTDATED = "outdated"


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to be sent, with what is known by now of what it is about.

    Attributes:
        message: The row of the outbox. Its key names the occurrence, as `finalized:<invoice id>`.
        bill: The bill; None when the ledger has none any more.
        payment: Its payment; None while nothing is known of it.
        given_back: What a mail about a credit tells.
        reached: What a mail about a spend limit tells; None when a higher threshold was reached meanwhile, or
            the month is over.
    """

    message: Message
    bill: Bill | None
    payment: Payment | None
    given_back: "GivenBack | None" = None
    reached: Reached | None = None

    @property
    def outdated(self) -> bool:
        """Whether the mail would say something that is no longer true."""
        if self.message.kind == THRESHOLD:
            return self.reached is None
        if self.bill is None or self.bill.state not in INVOICED:
            return True
        if self.message.kind == Template.CREDITED:
            return self.given_back is None
        if self.message.kind == Template.FINALIZED:
            return False
        attempt = self.message.payload["attempt"]
        return self.payment is None or not self.payment.failing or self.payment.failed_attempts > attempt


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What was given back of an invoice, in minor units; where to and why, as far as it is known."""

    cents: int
    at: datetime
    to: CreditKind | None = None
    reason: str | None = None

    @classmethod
    def by(cls, note: CreditNote) -> Self:
        """Return what one of our credit notes gave back."""
        return cls(note.cents, note.asked_at, note.kind, note.reason)


def put_given_back(
    connection: Connection, payment: Payment, cents: int, *, to: CreditKind | None, whole_cents: int
) -> None:
    """Put a mail into the outbox about what was given back at Stripe, if mail is switched on.

    `cents` is new; `whole_cents` is all that was given back of the invoice so far, and makes the mail's key.
    `to` is None where it is not known where the money goes.
    """
    looked = read_cursor(connection, _LOOKED)
    if looked is None or datetime.fromisoformat(looked.value) < payment.as_of - _OVERLAP:
        return
    payload = {"invoice": payment.stripe_invoice_id, "cents": cents, "to": to and to.value}
    key = f"credited:{payment.stripe_invoice_id}:at-stripe-{whole_cents}"
    message = Message(key, MAIL, Template.CREDITED, payload, payment.month, payment.user_id)
    put(connection, [message], now=payment.as_of)


def fill(connection: Connection, now: datetime) -> int:
    """Put into the outbox what is to be mailed and is not in it yet: one statement for each kind of mail.

    The first time switches mail on, from now. Return how many were added.
    """
    since, looked = (
        datetime.fromisoformat(cursor.value) if cursor else now
        for cursor in (read_cursor(connection, SINCE), read_cursor(connection, _LOOKED))
    )
    begin = max(since, looked - _OVERLAP, now - _OLDEST)
    move_cursor(connection, SINCE, since.isoformat())
    move_cursor(connection, _LOOKED, now.isoformat())
    bill, payment = invoices.c.stripe_invoice_id, payments.c.stripe_invoice_id
    attempt = payments.c.failed_attempts
    # Ids are Stripe's, of letters, digits and underscores: nothing in them to escape.
    finalized = _said(Template.FINALIZED, words("finalized:", bill), words('{"invoice":"', bill, '"}'))
    failed = _said(
        Template.PAYMENT_FAILED,
        words("payment_failed:", payment, ":", attempt),
        words('{"invoice":"', payment, '","attempt":', attempt, "}"),
    )
    issued, number = _issued.c.stripe_invoice_id, _issued.c.number
    credited = _said(
        Template.CREDITED,
        words("credited:", issued, ":", number),
        words('{"invoice":"', issued, '","number":', number, "}"),
    )
    reached = _said(THRESHOLD, words(THRESHOLD, ":", audit.c.id), audit.c.detail)
    present = sa.and_(
        audit.c.month == str(Month.containing(now)), audit.c.action == THRESHOLD, audit.c.at >= begin
    )
    standing = sa.and_(invoices.c.state.in_([*INVOICED]), bill.is_not(None), invoices.c.finalized_at >= begin)
    failing = sa.and_(payments.c.status == "open", attempt > 0, payments.c.as_of >= begin)
    return (
        put_selected(connection, invoices, standing, finalized, now)
        + put_selected(connection, payments, failing, failed, now)
        + put_selected(connection, _issued, _issued.c.asked_at >= begin, credited, now)
        + put_selected(connection, audit, present, reached, now)
    )


def _said(kind: str, key: sa.ColumnElement[str], payload: sa.ColumnElement[str]) -> Said:
    return {"key": key, "payload": payload, "channel": MAIL, "kind": kind}


def due_mails(connection: Connection, now: datetime, *, limit: int) -> list[Mail]:
    """Return mails whose turn has come, the longest due first."""
    messages = due(connection, [MAIL], now, limit=limit)
    month = Month.containing(now)
    of_limits = any(message.kind == THRESHOLD for message in messages)
    reached = reached_by_user(connection, month) if of_limits else {}
    ids = {message.payload["invoice"] for message in messages if message.kind != THRESHOLD}
    bills = read_as(connection, Bill, sa.select(invoices).where(invoices.c.stripe_invoice_id.in_(ids)))
    bill_of = {str(bill.stripe_invoice_id): bill for bill in bills}
    payment_of = payments_of(connection, ids)
    notes = read_credit_notes(connection, [bill.id for bill in bill_of.values()])
    note_of = {(note.stripe_invoice_id, note.number): note for note in notes}
    return [
        _about_limit(each, month, reached)
        if each.kind == THRESHOLD
        else Mail(
            each,
            bill_of.get(each.payload["invoice"]),
            payment_of.get(each.payload["invoice"]),
            _given_back(each, note_of),
        )
        for each in messages
    ]


def _about_limit(message: Message, month: Month, reached: Mapping[str, Reached]) -> Mail:
    told, latest = Reached(**message.payload), reached.get(str(message.user_id))
    is_news = message.month == str(month) and latest == told
    return Mail(message, None, None, reached=told if is_news else None)


def _given_back(message: Message, note_of: Mapping[tuple[str, int], CreditNote]) -> GivenBack | None:
    said = message.payload
    if "cents" in said:
        to = CreditKind(said["to"]) if said["to"] else None
        return GivenBack(said["cents"], message.created_at, to)
    note = note_of.get((said["invoice"], said.get("number", 0)))
    return GivenBack.by(note) if note else None
