"""Proof before the first request that no bill to be sent gives away or takes more than its past allows."""

import hashlib
from decimal import Decimal
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import IntegrityError
from spell_billing.core.money import round_half_up, step_cents
from spell_billing.core.month import Month
from spell_billing.core.outcomes import TO_DRIVE
from spell_billing.invoicing.credit_findings import credit_findings
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession

_ROWS_AT_ONCE = 5_000
_COLUMNS: tuple[sa.ColumnElement[Any], ...] = (
    *(invoices.c.user_id, invoices.c.stripe_customer_id, invoices.c.currency, invoices.c.description),
    *(invoices.c.lines, invoices.c.lines_hash, invoices.c.total_cents, invoices.c.credit_applied_cents),
    *(invoices.c.covered_cents, invoices.c.included_cents),
    *(sa.cast(invoices.c.usage_cents, sa.Text), invoices.c.terms),
)
WITH_A_PAST = sa.or_(
    invoices.c.covered_cents != 0,
    invoices.c.credit_applied_cents != 0,
    invoices.c.late_cents != 0,
    invoices.c.late_lines != 0,
)
_REMEDY = (
    "Nothing was sent. The ledger was changed after these bills were drafted: restore it from its backup, or "
    "look at the user with `spell-billing explain`."
)


class _Amount(msgspec.Struct):
    kind: str
    amount_cents: int


_encode = msgspec.json.encode
_read_amounts = msgspec.json.Decoder(tuple[_Amount, ...]).decode


def require_sound_bills(session: MonthSession) -> None:
    """Refuse bills whose plan covers more than it includes, credits that were never granted, altered bills.

    Raises:
        IntegrityError: naming the first such user, and both amounts.
    """
    with session.writing() as connection:
        wrong = what_is_unsound(connection, session.month, sa.true())
    if wrong is not None:
        raise IntegrityError(wrong, remedy=_REMEDY)


def what_is_unsound(
    connection: Connection, month: Month, which: sa.ColumnElement[bool] = WITH_A_PAST
) -> str | None:
    """Return what is wrong with the first unsound bill that a run would send; None when all are sound.

    Args:
        connection: To the ledger, for reading.
        month: The month.
        which: The bills to look at; by default those that charge something else than the month's usage alone.
            Before a bill is sent, all are looked at.
    """
    to_send = sa.and_(
        invoices.c.month == str(month), invoices.c.state.in_([str(state) for state in TO_DRIVE])
    )
    with_credit = connection.execute(
        sa.select(invoices).where(to_send, invoices.c.credit_applied_cents != 0)
    ).mappings()
    bills = {bill.user_id: bill for bill in map(Bill.from_mapping, with_credit)}
    finding = next(credit_findings(connection, bills), None) if bills else None
    if finding is not None:
        return f"User {finding.user_id} in {month}: {finding.expected}, {finding.found}."
    # Plain rows: a month may have a million of them.
    rows = connection.execute(
        sa.select(*_COLUMNS)
        .where(to_send, which)
        .order_by(invoices.c.id)
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    for row in rows:
        wrong = _wrong(month, *row)
        if wrong is not None:
            return wrong
    return None


def _wrong(  # noqa: PLR0917 - the columns, in their order
    month: Month,
    user_id: str,
    customer: str | None,
    currency: str,
    description: str,
    lines: str,
    fingerprint: str,
    total_cents: int,
    credit_applied_cents: int,
    covered_cents: int,
    included_cents: int,
    usage_cents: str,
    terms: str | None,
) -> str | None:
    amounts = _read_amounts(lines)
    covered = {-sum(line.amount_cents for line in amounts if line.kind == "included"), covered_cents}
    if covered != {0}:
        most = max(covered)
        if most > included_cents:
            return (
                f"The plan of user {user_id} covers {most} cents in {month}, and includes {included_cents}."
            )
        if min(covered) < 0 or most > max(0, round_half_up(Decimal(usage_cents))):
            return (
                f"The plan of user {user_id} covers {most} cents in {month} of usage of {usage_cents} cents."
            )
    credit = -sum(line.amount_cents for line in amounts if line.kind in {"credit", "brought_forward"})
    if total_cents > 0 and total_cents % step_cents(currency):
        return f"The bill of user {user_id} for {month} charges an amount that {currency} does not allow."
    head = _encode((customer or "", currency, description))
    content = head[:-1] + b"," + lines.encode() + (b"" if terms is None else b"," + _encode(terms)) + b"]"
    if (
        len(covered) > 1
        or credit != credit_applied_cents
        or sum(line.amount_cents for line in amounts) != total_cents
        or hashlib.sha256(content).hexdigest() != fingerprint
    ):
        return f"The bill of user {user_id} for {month} is not what was drafted."
    return None
