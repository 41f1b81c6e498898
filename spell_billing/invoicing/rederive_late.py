"""Derives once more what was charged for a month in all, with late usage, and what went back twice.

Apart from drafting and from the ledger's own reading of its history, as all of `rederive.py`.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.invoicing.rederive_positions import (
    FEES,
    LATE,
    STANDING,
    latest_bills,
    money,
    positions_of,
    read_lines,
)
from spell_billing.ledger import money_tables
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import audit, decisions, months

_SAID = re.compile(r"[^:]+:(-?[0-9]+):(-?[0-9]+):((?:fees of )?[0-9]{4}-[0-9]{2})(?::([0-9]+))?")
"""Currency, what was answered, what of it was for rows that went, the month of these, and the generation."""
_WORTH_ANOTHER = ("void", "settled", "uncollectible")


def late_amounts(connection: Connection, month: Month, latest: Mapping[str, Bill]) -> Iterator[Finding]:
    """Check that what was charged for a month in all, late lines too, is the rating of its whole usage."""
    users = sorted(
        bill.user_id
        for bill in latest.values()
        if bill.late_lines and any(line.kind in LATE for line in read_lines(bill.lines))
    )
    corrected, given_up = corrections(connection)
    for positions in positions_of(connection, users):
        for (user_id, usage_month), each in sorted(positions.items()):
            if str(month) not in each.holders or each.waits:
                continue
            charged_cents = each.charged_cents - corrected[user_id, usage_month]
            # What a coupon took off usage that went was paid by nobody.
            not_paid_cents = each.coupon_of_gone_cents(corrected[user_id, usage_month])
            target_cents = each.target_cents + not_paid_cents
            forgiven_cents = each.forgiven_cents - given_up[user_id, usage_month]
            # Nobody is ahead by more than refunds came to at a time.
            least = max(target_cents - forgiven_cents, min(target_cents, each.lowest_cents))
            most = target_cents + each.withheld_cents
            if not least <= charged_cents <= most:
                if is_due_next(connection, user_id, {*each.holders, usage_month}):
                    continue
                bill = latest[user_id]
                due = money(bill, least if charged_cents < least else most)
                expected = f"{due} charged for {usage_month} in all"
                yield Finding.of(Kind.LATE_USAGE_DIFFERS, bill, expected, money(bill, charged_cents))


def is_due_next(connection: Connection, user_id: str, of: Collection[str]) -> bool:
    """Return whether one of the bills became worth something else since the newest drafts were made."""
    moved = audit.c.from_state.in_(_WORTH_ANOTHER) | audit.c.to_state.in_(_WORTH_ANOTHER)
    became = sa.and_(moved, audit.c.from_state != audit.c.to_state)
    found = sa.select(audit.c.id).where(
        audit.c.month.in_(of),
        audit.c.user_id == user_id,
        audit.c.at > sa.select(sa.func.max(months.c.drafted_at)).scalar_subquery(),
        became | audit.c.action.in_(("settled", "voided", "given_back_settled")),
    )
    return connection.scalar(found.limit(1)) is not None


def given_back_findings(
    connection: Connection, month: Month, latest: Mapping[str, Bill]
) -> Iterator[Finding]:
    """Find invoices of which money was given back, and whose rows were given back on another bill as well.

    A person who said what the money was for has answered it.
    """
    back = _back_of(connection, month, latest)
    corrected, _ = corrections(connection)
    for positions in positions_of(connection, sorted(back)):
        gone: Counter[str] = Counter()
        for (user_id, of), each in positions.items():
            bill = latest[user_id]
            lines = [line for line in read_lines(bill.lines) if line.amount_cents > 0]
            if not each.waits and any(line.usage_month == of and line.kind in FEES for line in lines):
                gone[user_id] += each.gone_fees_cents(corrected[user_id, f"fees of {of}"])
            of_usage = (line for line in lines if line.kind not in FEES)
            if not each.waits and any(line.usage_month == of for line in of_usage):
                beside = each.peak_cents - corrected[user_id, of] - each.target_cents
                gone[user_id] += max(0, beside)
        for user_id, gone_cents in sorted((+gone).items()):
            bill = latest[user_id]
            both = (
                f"{money(bill, back[user_id])} of the invoice, and {money(bill, gone_cents)} for rows or fees"
            )
            yield Finding.of(Kind.GIVEN_BACK_TWICE, bill, "given back once", f"{both} that were removed")


def _back_of(connection: Connection, month: Month, latest: Mapping[str, Bill]) -> dict[str, int]:
    """Return what was given back of the month's standing invoices and not answered yet, by user."""
    by_note, by_charge = Counter[str](), Counter[str]()
    notes = money_tables.credit_notes.c
    of_month = money_tables.charges.c
    for each in connection.execute(sa.select(notes.stripe_invoice_id, notes.cents, notes.outcome)):
        by_note[each.stripe_invoice_id] += each.cents if each.outcome != "refused" else 0
    told = sa.select(audit.c.stripe_invoice_id, audit.c.amount_cents).where(
        audit.c.month == str(month), audit.c.action == "money_back", audit.c.amount_cents.is_not(None)
    )
    for invoice_id, cents in connection.execute(told):
        by_note[invoice_id] += cents
    taken = Counter[str]()
    for each in connection.execute(sa.select(money_tables.charges).where(of_month.month == str(month))):
        by_charge[each.stripe_invoice_id] += each.refunded_cents
        taken[each.stripe_invoice_id] += each.disputed_cents
    answered: Counter[tuple[str, int]] = Counter()
    for each in connection.execute(_said().where(decisions.c.month == str(month))):
        if read := read_said(each.content_hash):
            answered[each.user_id, read[3]] += read[0]
    found = {}
    for user_id, bill in latest.items():
        name = bill.stripe_invoice_id
        if name is None or bill.state not in STANDING:
            continue
        cents = _of_the_total(bill, max(by_note[name], by_charge[name]) + taken[name])
        cents -= answered[user_id, bill.generation]
        if bill.late_lines:
            lines = read_lines(bill.lines)
            cents += max(0, -sum(line.amount_cents for line in lines if line.kind == "changed_at_stripe"))
        if cents > 0:
            found[user_id] = cents
    return found


def _of_the_total(bill: Bill, cents: int) -> int:
    """Return what money of an invoice, with tax and after a coupon, is of its total."""
    paid = bill.total_cents + (bill.tax_cents or 0) - (bill.discount_cents or 0)
    return cents if paid == 0 else (2 * cents * bill.total_cents + paid) // (2 * paid)


def _said() -> sa.Select[Any]:
    return sa.select(decisions.c.user_id, decisions.c.month, decisions.c.content_hash).where(
        decisions.c.kind == "given_back_settled"
    )


def read_said(content: str | None) -> tuple[int, int, str, int] | None:
    """Return what was answered, what of it corrects which month, and the generation; None if unreadable.

    An answer of before generations were noted is about the first one.
    """
    read = _SAID.fullmatch(content or "")
    return (int(read[1]), int(read[2]), read[3], int(read[4] or 1)) if read else None


def corrections(connection: Connection) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Return what people said was given back for rows that went, by the user and month of the usage.

    That is of invoices that stand, and of those that were given up; of void ones it counts no more.
    """
    said = connection.execute(_said()).all()
    standing, given_up = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    newest = {}
    for bill in latest_bills(connection, sorted({each.user_id for each in said})) if said else ():
        newest[bill.user_id, bill.month, bill.generation] = bill.state
    for user_id, month, content in said:
        read = read_said(content)
        if read is None:
            # It is named with the month of the invoice.
            continue
        _, cents, usage_month, generation = read
        state = newest.get((user_id, month, generation))
        if state in STANDING:
            standing[user_id, usage_month] += cents
        elif state == "uncollectible":
            given_up[user_id, usage_month] += cents
    return standing, given_up
