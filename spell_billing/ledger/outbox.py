"""Mail to users: what is to be sent, each once, and what became of it. No address is kept here."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.outcomes import INVOICED
from spell_billing.ledger.message_tables import outbox
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import cursors, invoices, payments
from spell_billing.ledger.upsert import insert_new

SINCE = "mail_since"
"""The cursor that holds when mail was first switched on: earlier invoices are not mailed."""
_LOOKED = "mail_looked"
_OVERLAP = timedelta(days=3)
"""How long after it was finalized an invoice can get into the ledger and still be mailed."""
_OLDEST = timedelta(days=30)
"""What happened longer ago is no news to the user: not mailed, however long nobody looked."""


class Template(StrEnum):
    """The kinds of mail."""

    FINALIZED = "finalized"
    PAYMENT_FAILED = "payment_failed"


class GivenUp(StrEnum):
    """Why a mail will not be sent; `error` begins with the word."""

    NO_ADDRESS = "no_address"
    BAD_ADDRESS = "bad_address"
    REFUSED = "refused"
    OUTDATED = "outdated"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A mail to be sent, with what is known by now of the invoice it is about.

    Attributes:
        id: Of the row in the outbox.
        key: Names the occurrence, as `finalized:<invoice id>`.
        template: What kind of mail it is.
        month: As 2026-10.
        user_id: The platform's user.
        tries: Tries in vain so far.
        waiting_since: When it was put into the outbox.
        attempt: Where a payment failed: how many attempts had, by then; else 0.
        bill: The bill; None when the ledger has none any more.
        payment: Its payment; None while nothing is known of it.
    """

    id: int
    key: str
    template: Template
    month: str
    user_id: str
    tries: int
    waiting_since: datetime
    attempt: int
    bill: Bill | None
    payment: Payment | None

    @property
    def outdated(self) -> bool:
        """Whether the mail would say what is no longer so."""
        if self.bill is None or self.bill.state not in INVOICED:
            return True
        if self.template is Template.FINALIZED:
            return False
        return self.payment is None or not self.payment.failing or self.payment.failed_attempts > self.attempt


def has_news(connection: Connection, now: datetime) -> bool:
    """Say whether `fill` would add anything: a look that takes no write lock."""
    since = _since(connection, now)
    return any(
        connection.execute(chosen.limit(1)).first()
        for chosen in (_finalized(since, now), _failed(since, now))
    )


def fill(connection: Connection, now: datetime) -> int:
    """Put into the outbox what is to be mailed and is not in it yet: one statement for each kind of mail.

    Args:
        connection: To the ledger, in a transaction.
        now: The present, an aware datetime.

    Returns:
        How many mails were added.
    """
    since = _since(connection, now)
    return _add(connection, _finalized(since, now)) + _add(connection, _failed(since, now))


def note_look(connection: Connection, now: datetime) -> None:
    """Note that everything up to now was put into the outbox. The first note switches mail on, from now."""
    for name in (SINCE, _LOOKED):
        insert_new(connection, cursors, [{"name": name, "value": now.isoformat(), "moved_at": now}])
    connection.execute(
        cursors.update().where(cursors.c.name == _LOOKED).values(value=now.isoformat(), moved_at=now)
    )


def _since(connection: Connection, now: datetime) -> datetime:
    rows = connection.execute(sa.select(cursors.c.name, cursors.c.value))
    moments = {name: datetime.fromisoformat(value) for name, value in rows if name in {SINCE, _LOOKED}}
    return max(moments.get(SINCE, now), moments.get(_LOOKED, now) - _OVERLAP, now - _OLDEST)


def _finalized(since: datetime, now: datetime) -> sa.Select[Any]:
    invoice_id = invoices.c.stripe_invoice_id
    key = _text("finalized:").concat(invoice_id)
    content = _text('{"invoice":"').concat(invoice_id).concat(_text('"}'))
    return (
        _rows(Template.FINALIZED, invoices, key, content, now)
        .where(invoices.c.finalized_at >= since, invoice_id.is_not(None))
        .where(invoices.c.state.in_([state.value for state in INVOICED]))
        .order_by(invoices.c.id)
    )


def _failed(since: datetime, now: datetime) -> sa.Select[Any]:
    invoice_id, attempt = payments.c.stripe_invoice_id, sa.cast(payments.c.failed_attempts, sa.Text)
    key = _text("payment_failed:").concat(invoice_id).concat(_text(":")).concat(attempt)
    # Ids are Stripe's, of letters, digits and underscores: nothing in them to escape.
    content = _text('{"invoice":"').concat(invoice_id).concat(_text('","attempt":'))
    return (
        _rows(Template.PAYMENT_FAILED, payments, key, content.concat(attempt).concat(_text("}")), now)
        .where(payments.c.status == "open", payments.c.failed_attempts > 0, payments.c.as_of >= since)
        .order_by(invoice_id)
    )


_FILLED = ["key", "template", "month", "user_id", "content", "created_at", "tries", "next_try_at"]


def _rows(
    template: Template,
    about: sa.Table,
    key: sa.ColumnElement[str],
    content: sa.ColumnElement[str],
    now: datetime,
) -> sa.Select[Any]:
    at = sa.literal(now, outbox.c.created_at.type)
    chosen = sa.select(key, _text(template), about.c.month, about.c.user_id, content, at, sa.literal(0), at)
    return chosen.where(~sa.exists().where(outbox.c.key == key))


def _add(connection: Connection, chosen: sa.Select[Any]) -> int:
    insert = outbox.insert().from_select(_FILLED, chosen).execution_options(preserve_rowcount=True)
    return connection.execute(insert).rowcount


def _text(words: str) -> sa.ColumnElement[str]:
    return sa.literal(words, sa.Text)


def due(connection: Connection, now: datetime, *, limit: int) -> list[Waiting]:
    """Return mails whose turn has come, the longest due first."""
    query = sa.select(outbox).where(_is_due(now)).order_by(outbox.c.next_try_at, outbox.c.id).limit(limit)
    rows = connection.execute(query).all()
    contents = [orjson.loads(row.content) for row in rows]
    ids = {content["invoice"] for content in contents}
    bills = connection.execute(sa.select(invoices).where(invoices.c.stripe_invoice_id.in_(ids))).mappings()
    bill_of = {str(row["stripe_invoice_id"]): Bill.from_mapping(row) for row in bills}
    paid = connection.execute(sa.select(payments).where(payments.c.stripe_invoice_id.in_(ids))).mappings()
    payment_of = {str(row["stripe_invoice_id"]): Payment.from_mapping(row) for row in paid}
    return [
        Waiting(
            id=row.id,
            key=row.key,
            template=Template(row.template),
            month=row.month,
            user_id=row.user_id,
            tries=row.tries,
            waiting_since=row.created_at,
            attempt=content.get("attempt", 0),
            bill=bill_of.get(content["invoice"]),
            payment=payment_of.get(content["invoice"]),
        )
        for row, content in zip(rows, contents, strict=True)
    ]


def mark_sent(connection: Connection, mail_id: int, now: datetime) -> None:
    """Note that the mail server took a mail."""
    _update(connection, outbox.c.id == mail_id, sent_at=now, tries=outbox.c.tries + 1, error=None)


def mark_given_up(connection: Connection, mail_id: int, reason: GivenUp, detail: str, now: datetime) -> None:
    """Note that a mail will not be sent, and why; `detail` holds no address."""
    error = f"{reason}: {detail}" if detail else reason.value
    _update(connection, outbox.c.id == mail_id, given_up_at=now, error=error)


def mark_tried(connection: Connection, mail_id: int, error: str, next_try_at: datetime) -> None:
    """Note a try in vain; `error` holds no address."""
    _update(
        connection, outbox.c.id == mail_id, tries=outbox.c.tries + 1, error=error, next_try_at=next_try_at
    )


def mark_all_due_tried(connection: Connection, error: str, now: datetime, next_try_at: datetime) -> None:
    """Note for every mail that is due that the server could not be used."""
    _update(connection, _is_due(now), tries=outbox.c.tries + 1, error=error, next_try_at=next_try_at)


def _is_due(now: datetime) -> sa.ColumnElement[bool]:
    waiting = sa.and_(outbox.c.sent_at.is_(None), outbox.c.given_up_at.is_(None))
    return sa.and_(waiting, outbox.c.next_try_at <= now)


def _update(connection: Connection, which: sa.ColumnElement[bool], **values: Any) -> None:
    connection.execute(outbox.update().where(which).values(**values))
