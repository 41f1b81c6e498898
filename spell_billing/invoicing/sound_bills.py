"""Proof before the first request that no bill to be sent gives away or takes more than its past allows."""

from collections.abc import Mapping

from sqlalchemy.engine import Connection

from spell_billing.core.drafting import lines_hash
from spell_billing.core.errors import IntegrityError
from spell_billing.core.money import plain, round_half_up
from spell_billing.core.month import Month
from spell_billing.core.outcomes import TO_DRIVE
from spell_billing.invoicing.credit_findings import credit_findings
from spell_billing.ledger.queries import read_bills
from spell_billing.ledger.rows import Bill
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
    with session.writing() as connection:
        wrong = what_is_unsound(connection, session.month)
    if wrong is not None:
        raise IntegrityError(wrong, remedy=_REMEDY)


def what_is_unsound(connection: Connection, month: Month) -> str | None:
    """Return what is wrong with the first unsound bill that a run would send; None when all are sound."""
    last_id = 0
    altered: str | None = None
    with_credit: dict[str, Bill] = {}
    while page := read_bills(connection, month, TO_DRIVE, after_id=last_id, limit=_PAGE_ROWS):
        altered = altered or next(filter(None, map(_altered, page)), None)
        with_credit |= {bill.user_id: bill for bill in page if bill.credit_applied_cents}
        last_id = page[-1].id
    return _not_granted(connection, month, with_credit) or altered


def _altered(bill: Bill) -> str | None:
    lines = bill.parsed_lines
    covered = {-sum(line.amount_cents for line in lines if line.kind == "included"), bill.covered_cents}
    named = f"user {bill.user_id}"
    if max(covered) > bill.included_cents:
        return (
            f"The plan of {named} covers {max(covered)} cents in {bill.month}, and includes "
            f"{bill.included_cents}."
        )
    if min(covered) < 0 or max(covered) > max(0, round_half_up(bill.usage_cents)):
        usage = plain(bill.usage_cents)
        return f"The plan of {named} covers {max(covered)} cents in {bill.month} of usage of {usage} cents."
    credit = -sum(line.amount_cents for line in lines if line.kind == "credit")
    content = (bill.stripe_customer_id or "", bill.currency, bill.description, lines)
    if (
        len(covered) > 1
        or credit != bill.credit_applied_cents
        or sum(line.amount_cents for line in lines) != bill.total_cents
        or lines_hash(*content) != bill.lines_hash
    ):
        return f"The bill of {named} for {bill.month} is not what was drafted."
    return None


def _not_granted(connection: Connection, month: Month, bills: Mapping[str, Bill]) -> str | None:
    finding = next(credit_findings(connection, bills), None) if bills else None
    return f"User {finding.user_id} in {month}: {finding.expected}, {finding.found}." if finding else None
