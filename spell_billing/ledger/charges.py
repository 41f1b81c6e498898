"""Charges of which money went back, and what is left of each invoice's payment."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.column_types import put_row, read_as
from spell_billing.ledger.money_tables import charges, payments
from spell_billing.ledger.schema import invoices

_KEPT_DISPUTES = frozenset({"won", "prevented"})
_ENDED_DISPUTES = _KEPT_DISPUTES | {"lost", "warning_closed"}


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

    @property
    def is_settled(self) -> bool:
        """Whether there is a dispute that has ended."""
        return self.dispute in _ENDED_DISPUTES


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a month's invoices in one currency, in minor units."""

    currency: str
    paid_cents: int = 0
    """Money received."""
    refunded_cents: int = 0
    """Returned by refunds, or outside of Stripe by credit notes."""
    disputed_cents: int = 0
    """Taken back by banks in disputes that are open or lost."""
    credited_cents: int = 0
    """Taken off the invoices by credit notes."""
    moved_cents: int = 0
    """Moved to the customers' next invoices, because Stripe does not charge so little."""
    from_balance_cents: int = 0
    """Paid from the customers' balances."""
    due_cents: int = 0

    @property
    def kept_cents(self) -> int:
        """Money received and kept."""
        return self.paid_cents - self.refunded_cents - self.disputed_cents


def takes_money(dispute: str | None) -> bool:
    """Return whether a dispute of a status holds the money back; an inquiry (`warning_...`) does not."""
    return dispute is not None and dispute not in _KEPT_DISPUTES and not dispute.startswith("warning")


def keep_charges(connection: Connection, read: Iterable[Charge]) -> list[Charge]:
    """Write charges of which money went back, or came back since, and return those with news.

    What was read before something newer was written is left out: two may read an invoice at once.
    """
    found = {each.charge_id: each for each in read}
    known = {each.charge_id: each for each in read_charges(connection, charge_ids=list(found))}
    news = [
        each
        for each in found.values()
        if _facts(each) != _facts(before := known.get(each.charge_id))
        and (before is None or before.as_of <= each.as_of)
    ]
    for each in news:
        put_row(connection, charges, asdict(each))
    return news


def read_charges(
    connection: Connection, *, charge_ids: Sequence[str] = (), invoice_ids: Sequence[str] = ()
) -> list[Charge]:
    """Return what is known of charges, by their ids or by the invoices that they paid."""
    which = charges.c.charge_id.in_(list(charge_ids)) | charges.c.stripe_invoice_id.in_(list(invoice_ids))
    return read_as(connection, Charge, sa.select(charges).where(which).order_by(charges.c.charge_id))


def kept_of_months(connection: Connection, months: Collection[Month]) -> dict[str, list[Kept]]:
    """Return what became of months' standing invoices, by month and currency, as far as Stripe was read.

    A paid bill of whose payment nothing is known yet counts as paid in full.
    """
    names, nothing, or_zero = [str(month) for month in months], sa.literal(0), sa.func.coalesce
    sums_back = (sa.func.sum(charges.c[name]).label(name) for name in ("refunded_cents", "disputed_cents"))
    back = (
        sa.select(charges.c.stripe_invoice_id, *sums_back)
        .where(charges.c.month.in_(names))
        .group_by(charges.c.stripe_invoice_id)
        .subquery()
    )
    is_paid = invoices.c.state == State.PAID.value
    beside = or_zero(invoices.c.tax_cents, nothing) - or_zero(invoices.c.discount_cents, nothing)
    total, paid = invoices.c.total_cents + beside, payments.c.amount_paid_cents
    due = sa.case((payments.c.status == "open", payments.c.amount_due_cents - paid), else_=nothing)
    unknown = payments.c.stripe_invoice_id.is_(None)
    sums = (
        sa.case((unknown, sa.case((is_paid, total), else_=nothing)), else_=paid),
        or_zero(back.c.refunded_cents, nothing) + payments.c.returned_outside_cents,
        back.c.disputed_cents,
        payments.c.credited_cents,
        payments.c.moved_cents,
        payments.c.from_balance_cents,
        sa.case((unknown, sa.case((is_paid, nothing), else_=total)), else_=due),
    )
    by = (invoices.c.month, invoices.c.currency)
    query = (
        sa.select(*by, *(or_zero(sa.func.sum(each), nothing) for each in sums))
        .outerjoin(payments, payments.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .outerjoin(back, back.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .where(invoices.c.month.in_(names), invoices.c.state.in_([*INVOICED]))
        .group_by(*by)
        .order_by(*by)
    )
    found: dict[str, list[Kept]] = {name: [] for name in names}
    for month, currency, *rest in connection.execute(query):
        found[month].append(Kept(currency, *(int(each) for each in rest)))
    return found


def _facts(charge: Charge | None) -> tuple[int, int, str | None]:
    return (charge.refunded_cents, charge.disputed_cents, charge.dispute) if charge else (0, 0, None)
