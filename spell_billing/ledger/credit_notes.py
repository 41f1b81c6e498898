"""Credit notes that a person issued: each is a row before Stripe is asked, and until its outcome is known."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.column_types import put_row, read_as
from spell_billing.ledger.money_tables import credit_notes
from spell_billing.ledger.payments import Payment
from spell_billing.ledger.rows import Actor, Bill
from spell_billing.ledger.schema import audit

CREDITED = "credited"
"""The action in the audit trail once Stripe has issued a credit note; its detail names the note."""

MONEY_BACK = "money_back"
"""The action where money went back, or was taken off, without our commands, as in the dashboard."""


class CreditKind(StrEnum):
    """Where the money of a credit note goes."""

    REDUCE = "reduce"
    REFUND = "refund"
    BALANCE = "balance"


@dataclass(frozen=True, slots=True)
class CreditNote:
    """A row of `ledger_credit_notes`. `outcome` is None while it is not known: `issued` or `refused`."""

    bill_id: int
    number: int
    stripe_invoice_id: str
    cents: int
    kind: CreditKind
    reason: str
    attempt: int
    asked_at: datetime
    outcome: str | None = None
    credit_note_id: str | None = None


def read_credit_notes(connection: Connection, bill_ids: Sequence[int]) -> list[CreditNote]:
    """Return the credit notes of bills, in the order they were issued."""
    query = sa.select(credit_notes).where(credit_notes.c.bill_id.in_(list(bill_ids)))
    return read_as(connection, CreditNote, query.order_by(credit_notes.c.bill_id, credit_notes.c.number))


def notes_of_ours(connection: Connection, credit_note_ids: Collection[str]) -> set[str]:
    """Return those of Stripe's credit notes that our commands made."""
    query = sa.select(credit_notes.c.credit_note_id)
    return set(connection.scalars(query.where(credit_notes.c.credit_note_id.in_(list(credit_note_ids)))))


def known_back(connection: Connection, of: Mapping[str, tuple[str, str]]) -> Counter[str]:
    """Return what the ledger knows to be given back of invoices, with our commands or without, by their ids.

    `of` has the user and the month of each.
    """
    asked = sa.select(credit_notes.c.stripe_invoice_id, sa.func.sum(credit_notes.c.cents)).where(
        credit_notes.c.stripe_invoice_id.in_(list(of)),
        sa.func.coalesce(credit_notes.c.outcome, "issued") == "issued",
    )
    seen = sa.select(audit.c.stripe_invoice_id, sa.func.sum(audit.c.amount_cents)).where(_seen(of))
    found: Counter[str] = Counter()
    for query, by in ((asked, credit_notes), (seen, audit)):
        for invoice_id, cents in connection.execute(query.group_by(by.c.stripe_invoice_id)):
            found[invoice_id] += int(cents)
    return found


def known_back_cents(connection: Connection, payment: Payment) -> int:
    """Return what the ledger knows to be given back of one invoice."""
    return known_back(connection, _bill_of(payment))[payment.stripe_invoice_id]


def booked_back_cents(connection: Connection, payment: Payment) -> int:
    """Return what was booked back of an invoice: of refunds that failed at the bank."""
    booked = _seen(_bill_of(payment)), audit.c.amount_cents < 0
    return int(connection.scalar(sa.select(-sa.func.sum(audit.c.amount_cents)).where(*booked)) or 0)


def _bill_of(payment: Payment) -> dict[str, tuple[str, str]]:
    return {payment.stripe_invoice_id: (payment.user_id, payment.month)}


def _seen(of: Mapping[str, tuple[str, str]]) -> sa.ColumnElement[bool]:
    """Return the condition for audit entries of what went back of invoices without our commands."""
    return sa.and_(
        # The index is by month and user.
        audit.c.month.in_({month for _, month in of.values()}),
        audit.c.user_id.in_({user_id for user_id, _ in of.values()}),
        audit.c.action == MONEY_BACK,
        audit.c.stripe_invoice_id.in_(list(of)),
        audit.c.amount_cents.is_not(None),
    )


def write_credit_note(
    connection: Connection, bill: Bill, note: CreditNote, *, actor: Actor, action: str, detail: str
) -> None:
    """Write a credit note's row, new or as it is now, and its audit entry."""
    put_row(connection, credit_notes, asdict(note))
    entry = {
        "month": bill.month,
        "user_id": bill.user_id,
        "generation": bill.generation,
        "action": action,
        "from_state": bill.state,
        "to_state": bill.state,
        "stripe_invoice_id": note.stripe_invoice_id,
        "detail": detail,
    }
    write_audit(connection, actor, datetime.now(UTC), entry)
