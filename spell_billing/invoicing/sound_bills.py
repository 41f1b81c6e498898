"""Proof before the first request that no bill to be sent gives away or takes more than its past allows."""

from collections.abc import Iterable

import sqlalchemy as sa

from spell_billing.core.drafting import lines_hash
from spell_billing.core.errors import IntegrityError
from spell_billing.core.outcomes import TO_DRIVE, State
from spell_billing.invoicing.rederive import credit_findings
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession

_PAGE_ROWS = 2_000
_REMEDY = (
    "Nothing was sent. The ledger was changed after these bills were drafted: restore it from its backup, or "
    "look at the user with `spell-billing explain`."
)


def require_sound_bills(session: MonthSession) -> None:
    """Refuse bills whose plan covers more than it includes, credits that were never granted, altered bills.

    Raises:
        IntegrityError: naming the first such user, and both amounts.
    """
    to_send = sa.and_(
        invoices.c.month == str(session.month), invoices.c.state.in_([state.value for state in TO_DRIVE])
    )
    covers = invoices.c.covered_cents
    too_much = sa.or_(covers > invoices.c.included_cents, covers < 0)
    with session.writing() as connection:
        row = connection.execute(
            sa.select(invoices.c.user_id, covers, invoices.c.included_cents)
            .where(to_send, covers != 0, too_much)
            .limit(1)
        ).first()
        if row is not None:
            raise IntegrityError(
                f"The plan of user {row.user_id} covers {row.covered_cents} cents in {session.month}, and "
                f"includes {row.included_cents}.",
                remedy=_REMEDY,
            )
        found = connection.execute(
            sa.select(invoices).where(to_send, invoices.c.credit_applied_cents > 0)
        ).mappings()
        bills = {bill.user_id: bill for bill in map(Bill.from_mapping, found)}
        finding = next(credit_findings(connection, bills), None) if bills else None
    if finding is not None:
        raise IntegrityError(
            f"User {finding.user_id} in {session.month}: {finding.expected}, {finding.found}.", remedy=_REMEDY
        )
    last_id = 0
    while page := session.page(TO_DRIVE, after_id=last_id, limit=_PAGE_ROWS):
        _require_as_drafted(page)
        last_id = page[-1].id


def _require_as_drafted(bills: Iterable[Bill]) -> None:
    for bill in bills:
        content = (bill.stripe_customer_id or "", bill.currency, bill.description, bill.parsed_lines)
        total_cents = sum(line.amount_cents for line in bill.parsed_lines)
        as_drafted = bill.state is State.DRAFTED or lines_hash(*content) == bill.lines_hash
        if not as_drafted or total_cents != bill.total_cents:
            raise IntegrityError(
                f"The bill of user {bill.user_id} for {bill.month} is not what was drafted.",
                remedy=_REMEDY,
            )
