"""Charges of which money went back, and what is left of each invoice's payment."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.ledger.schema import charges, invoices, payments
from spell_billing.ledger.upsert import insert_new

_KEPT_DISPUTES = frozenset({"won", "prevented"})


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge of which money went back: a row of `ledger_charges`. Amounts in minor units."""

    charge_id: str
    stripe_invoice_id: str
    month: str
    currency: str
    amount_cents: int
    refunded_cents: int
    disputed_cents: int
    dispute: str | None
    as_of: datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a month's invoices in one currency, in minor units.

    Attributes:
        currency: Three lower-case letters.
        paid_cents: Money received.
        refunded_cents: Returned by refunds, or outside of Stripe by credit notes.
        disputed_cents: Taken back by banks in disputes that are open or lost.
        credited_cents: Taken off the invoices by credit notes.
        balance_cents: Moved to customers' balances, to be charged with their next invoice; below zero, paid
            from their balances.
        due_cents: Still to be paid.
    """

    currency: str
    paid_cents: int = 0
    refunded_cents: int = 0
    disputed_cents: int = 0
    credited_cents: int = 0
    balance_cents: int = 0
    due_cents: int = 0

    @property
    def kept_cents(self) -> int:
        """Money received and kept."""
        return self.paid_cents - self.refunded_cents - self.disputed_cents


def takes_money(dispute: str | None) -> bool:
    """Return whether a dispute of a status holds the money back; an inquiry (`warning_...`) does not."""
    return dispute is not None and dispute not in _KEPT_DISPUTES and not dispute.startswith("warning")


def keep_charges(connection: Connection, read: Iterable[Charge]) -> list[Charge]:
    """Write down charges of which money went back, or came back since.

    Returns:
        Those of which something new is known.
    """
    found = {each.charge_id: each for each in read}
    known = {each.charge_id: each for each in read_charges(connection, charge_ids=list(found))}
    news = [each for each in found.values() if _facts(each) != _facts(known.get(each.charge_id))]
    for each in news:
        if not insert_new(connection, charges, [asdict(each)]):
            connection.execute(
                charges.update().where(charges.c.charge_id == each.charge_id).values(**asdict(each))
            )
    return news


def read_charges(
    connection: Connection, *, charge_ids: Sequence[str] = (), invoice_ids: Sequence[str] = ()
) -> list[Charge]:
    """Return what is known of charges, by their ids or by the invoices that they paid."""
    query = sa.select(charges).where(
        charges.c.charge_id.in_(list(charge_ids)) | charges.c.stripe_invoice_id.in_(list(invoice_ids))
    )
    rows = connection.execute(query.order_by(charges.c.charge_id)).mappings()
    return [Charge(**{str(name): value for name, value in row.items()}) for row in rows]


def kept_of_month(connection: Connection, month: Month) -> list[Kept]:
    """Return what became of the month's standing invoices, by currency, as far as Stripe was read."""
    back = (
        sa.select(
            charges.c.stripe_invoice_id,
            sa.func.sum(charges.c.refunded_cents).label("refunded"),
            sa.func.sum(charges.c.disputed_cents).label("disputed"),
        )
        .where(charges.c.month == str(month))
        .group_by(charges.c.stripe_invoice_id)
        .subquery()
    )
    nothing = sa.literal(0)
    sums = (
        payments.c.amount_paid_cents,
        sa.func.coalesce(back.c.refunded, nothing) + payments.c.returned_outside_cents,
        sa.func.coalesce(back.c.disputed, nothing),
        payments.c.credited_cents,
        payments.c.balance_cents,
        sa.case(
            (payments.c.status == "open", payments.c.amount_due_cents - payments.c.amount_paid_cents),
            else_=nothing,
        ),
    )
    query = (
        sa.select(invoices.c.currency, *(sa.func.sum(each) for each in sums))
        .join(payments, payments.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .outerjoin(back, back.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .where(invoices.c.month == str(month), payments.c.status != "void")
        .group_by(invoices.c.currency)
        .order_by(invoices.c.currency)
    )
    return [Kept(currency, *(int(each) for each in rest)) for currency, *rest in connection.execute(query)]


def _facts(charge: Charge | None) -> tuple[int, int, str | None]:
    return (charge.refunded_cents, charge.disputed_cents, charge.dispute) if charge else (0, 0, None)
