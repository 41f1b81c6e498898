"""Money that came back after a person had said that it was given back for rows that went.

A dispute is won, or a refund fails: then the user pays for those rows, as long as that answer stands.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator

from sqlalchemy.engine import Connection

from spell_billing.core.money import format_money
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.invoicing.given_back import bill_of_user
from spell_billing.ledger.given_back import Invoice, money_back, read_answers
from spell_billing.ledger.rows import Bill


def came_back_findings(connection: Connection, bills: Iterable[Bill]) -> Iterator[Finding]:
    """Return those of users' latest bills of which less is given back than was settled as a correction."""
    for bill, corrected_cents, back_cents in _came_back(connection, bills):
        corrected, back = (format_money(each, bill.currency) for each in (corrected_cents, back_cents))
        expected = f"{corrected} given back for rows that went"
        yield Finding.of(Kind.CORRECTION_UNDONE, bill, expected, f"{back} given back")


def correction_undone(connection: Connection, month: str, user_id: str) -> str:
    """Return a sentence on money of an invoice that came back after it was settled; empty where none did."""
    own = bill_of_user(connection, month, user_id)
    for bill, corrected_cents, back_cents in _came_back(connection, [own] if own else []):
        money, back = (
            format_money(each, bill.currency, grouping=True) for each in (corrected_cents, back_cents)
        )
        # What is still given back is settled once more; where nothing is, the answer is taken back.
        given_back_as = "correction" if back_cents > 0 else "goodwill"
        return (
            f"{money} of it was settled as a correction for rows that went, and {back} is given back now, so "
            f"the user pays for such rows: `spell-billing settle --month {month} --user "
            f"{shlex.quote(user_id)} --given-back {given_back_as}` lets the next bill give them back."
        )
    return ""


def _came_back(connection: Connection, bills: Iterable[Bill]) -> Iterator[tuple[Bill, int, int]]:
    """Return bills with what was settled as a correction, where less than that is given back."""
    corrected: Counter[tuple[str, str, int]] = Counter()
    for answer in read_answers(connection, leave_altered=True):
        corrected[answer.user_id, answer.month, answer.generation] += answer.corrected_cents
    settled = {
        str(bill.stripe_invoice_id): (bill, cents)
        for bill in bills
        if (cents := corrected[bill.user_id, bill.month, bill.generation]) > 0
    }
    back = money_back(connection, {name: (bill.user_id, bill.month) for name, (bill, _) in settled.items()})
    for invoice_id, (bill, corrected_cents) in settled.items():
        back_cents = Invoice.of(bill, bill.parsed_lines).back_cents(back[invoice_id])
        if back_cents < corrected_cents:
            yield bill, corrected_cents, back_cents
