"""A month's bills and payments as a journal in double entry, by currency, from the ledger alone.

What an account is, and which entries it gets, stands in docs/finance.md.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core import lines
from spell_billing.core.grants import PAID
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, Reason, State
from spell_billing.ledger.balances import put_by_hand
from spell_billing.ledger.charges import Kept, kept_of_months
from spell_billing.ledger.credits import settled_of
from spell_billing.ledger.money_tables import grants, payments
from spell_billing.ledger.queries import has_line_of, latest_generation
from spell_billing.ledger.reviews import DecisionKind
from spell_billing.ledger.schema import decisions, invoices

_ROWS_AT_ONCE = 5_000
_READ = (
    *("currency", "state", "reason", "total_cents", "carried_cents", "tax_cents", "discount_cents", "lines"),
)
_BOOKED = [*INVOICED, State.SKIPPED, State.SETTLED]
"""Bills that stand; what is still to be sent, and what was voided, is in no entry."""


class Account(StrEnum):
    """Where an amount stands."""

    RECEIVABLE = "receivable"
    CARRIED = "carried_amounts"
    CASH = "cash"
    BY_HAND = "billed_by_hand"
    CUSTOMER_BALANCE = "customer_balance"
    BALANCE_BY_HAND = "balance_by_hand"
    PREPAID = "prepaid"
    TAX = "tax"
    DEFERRED_FEES = "deferred_fees"
    USAGE = "usage_revenue"
    FEES = "fee_revenue"
    DISCOUNTS = "discounts"
    PROMOTIONS = "promotions"
    CREDIT_NOTES = "credit_notes"
    REFUNDS = "refunds"
    DISPUTES = "disputes"
    WRITTEN_OFF = "written_off"


class Entry(StrEnum):
    """What happened; each entry balances by itself."""

    INVOICES = "invoices"
    WITHOUT_INVOICE = "without_invoice"
    SETTLED = "settled_by_a_person"
    FEES_EARNED = "fees_earned"
    PAYMENTS = "payments"
    CUSTOMER_BALANCE = "customer_balance"
    CREDIT_NOTES = "credit_notes"
    REFUNDS = "refunds"
    DISPUTES = "disputes"
    UNCOLLECTIBLE = "uncollectible"


@dataclass(frozen=True, slots=True)
class Posting:
    """One side of an entry in minor units: either its debit or its credit is above zero."""

    month: str
    currency: str
    entry: Entry
    account: Account
    debit_cents: int
    credit_cents: int


_ACCOUNT_OF = {
    **dict.fromkeys((lines.USAGE, lines.INCLUDED, lines.USAGE_DISCOUNT, lines.MINIMUM), Account.USAGE),
    **dict.fromkeys(lines.LATE_KINDS, Account.USAGE),
    lines.FEE: Account.FEES,
    lines.FEE_IN_ADVANCE: Account.DEFERRED_FEES,
    **dict.fromkeys((lines.DISCOUNT, lines.FORGIVEN, lines.CHANGED), Account.DISCOUNTS),
    # A bill takes up what earlier ones left in one sum: amounts to be charged less credits.
    **dict.fromkeys((lines.CREDIT, lines.REMAINDER, lines.BROUGHT), Account.CARRIED),
}

_Sums = Counter[tuple[str, Entry, Account]]
"""By currency, entry and account, in minor units: debits above zero."""


def read_journal(connection: Connection, month: Month) -> list[Posting]:
    """Return the postings of a month's bills and of what became of them, as the ledger knows it now."""
    sums: _Sums = Counter()
    _book_bills(connection, month, sums)
    _book_fees_earned(connection, month, sums)
    for kept in kept_of_months(connection, [month])[str(month)]:
        _book_payments(kept, sums)
    by_hand, to_balance = put_by_hand(connection, month).items(), _to_balance(connection, month)
    for found, entry, debit, credit in (
        (by_hand, Entry.CUSTOMER_BALANCE, Account.BALANCE_BY_HAND, Account.CUSTOMER_BALANCE),
        (to_balance, Entry.CREDIT_NOTES, Account.CREDIT_NOTES, Account.CUSTOMER_BALANCE),
        (_uncollectible(connection, month), Entry.UNCOLLECTIBLE, Account.WRITTEN_OFF, Account.RECEIVABLE),
        (_credits_settled(connection, month), Entry.SETTLED, Account.CARRIED, Account.BY_HAND),
    ):
        for currency, cents in found:
            _book(sums, currency, entry, cents, debit=debit, credit=credit)
    order = {each: place for kind in (Entry, Account) for place, each in enumerate(kind)}
    return [
        Posting(str(month), currency, entry, account, max(cents, 0), max(-cents, 0))
        for (currency, entry, account), cents in sorted(
            sums.items(), key=lambda item: (item[0][0], order[item[0][1]], order[item[0][2]])
        )
        if cents
    ]


def imbalances(connection: Connection, month: Month, postings: Sequence[Posting]) -> Iterator[str]:
    """Say what does not balance: an entry, what is open at Stripe, what bills carried."""
    by_entry: Counter[tuple[str, Entry]] = Counter()
    receivable: Counter[str] = Counter()
    carried: Counter[str] = Counter()
    for each in postings:
        cents = each.debit_cents - each.credit_cents
        by_entry[each.currency, each.entry] += cents
        if each.account == Account.RECEIVABLE:
            receivable[each.currency] += cents
        elif each.account == Account.CARRIED:
            carried[each.currency] += cents
    for (currency, entry), cents in by_entry.items():
        if cents:
            yield f"{entry} in {currency}: debits exceed credits by {cents} minor units."
    for kept in kept_of_months(connection, [month])[str(month)]:
        if receivable[kept.currency] != kept.due_cents:
            yield (
                f"receivable in {kept.currency}: {receivable[kept.currency]} minor units by the journal, "
                f"{kept.due_cents} are open at Stripe."
            )
    carried.subtract(_carried(connection, month))
    for currency, cents in carried.items():
        if cents:
            yield f"carried_amounts in {currency}: {cents} minor units more by the journal than by the bills."


def _book(sums: _Sums, currency: str, entry: Entry, cents: int, *, debit: Account, credit: Account) -> None:
    sums[currency, entry, debit] += cents
    sums[currency, entry, credit] -= cents


def _book_bills(connection: Connection, month: Month, sums: _Sums) -> None:
    bill = invoices.c
    query = (
        sa.select(*(bill[name] for name in _READ))
        .where(latest_generation(month), bill.state.in_(_BOOKED))
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    bought = set(connection.execute(sa.select(grants.c.grant_id).where(grants.c.kind == PAID)).scalars())
    for row in connection.execute(query):
        tax, coupon = row.tax_cents or 0, row.discount_cents or 0
        if row.state in INVOICED:
            entry, owed = Entry.INVOICES, Account.RECEIVABLE
        elif row.state == State.SETTLED:
            by_hand = row.reason == Reason.BILLED_BY_HAND
            entry, owed = Entry.SETTLED, Account.BY_HAND if by_hand else Account.WRITTEN_OFF
        else:
            entry, owed = Entry.WITHOUT_INVOICE, Account.CARRIED
        for line in lines.load_lines(row.lines):
            if line.amount_cents:
                sums[row.currency, entry, _account_of(line, bought)] -= line.amount_cents
        # A credit, which later bills use up; one of a bill that a person settled is left to nobody.
        credit_cents = max(row.carried_cents, 0)
        sums[row.currency, entry, Account.CARRIED] -= credit_cents
        sums[row.currency, entry, owed] += row.total_cents + credit_cents + tax - coupon
        sums[row.currency, entry, Account.TAX] -= tax
        sums[row.currency, entry, Account.DISCOUNTS] += coupon


def _account_of(line: lines.Line, bought: set[str]) -> Account:
    if line.kind == lines.GRANT:
        return Account.PREPAID if line.grant_id in bought else Account.PROMOTIONS
    return _ACCOUNT_OF[line.kind]


def _book_fees_earned(connection: Connection, month: Month, sums: _Sums) -> None:
    """Book what the month before charged in advance for this one."""
    bill = invoices.c
    query = sa.select(bill.currency, bill.lines).where(
        latest_generation(month.previous()),
        bill.state.in_(_BOOKED),
        bill.late_lines > 0,
        has_line_of(lines.FEE_IN_ADVANCE),
    )
    for currency, text in connection.execute(query):
        for line in lines.load_lines(text):
            if line.kind == lines.FEE_IN_ADVANCE and line.usage_month == str(month):
                cents, debit, credit = line.amount_cents, Account.DEFERRED_FEES, Account.FEES
                _book(sums, currency, Entry.FEES_EARNED, cents, debit=debit, credit=credit)


def _book_payments(kept: Kept, sums: _Sums) -> None:
    for entry, cents, debit, credit in (
        (Entry.PAYMENTS, kept.paid_cents, Account.CASH, Account.RECEIVABLE),
        (
            Entry.CUSTOMER_BALANCE,
            kept.moved_cents + kept.from_balance_cents,
            Account.CUSTOMER_BALANCE,
            Account.RECEIVABLE,
        ),
        (Entry.CREDIT_NOTES, kept.credited_cents, Account.CREDIT_NOTES, Account.RECEIVABLE),
        (Entry.REFUNDS, kept.refunded_cents, Account.REFUNDS, Account.CASH),
        (Entry.DISPUTES, kept.disputed_cents, Account.DISPUTES, Account.CASH),
    ):
        _book(sums, kept.currency, entry, cents, debit=debit, credit=credit)


def _uncollectible(connection: Connection, month: Month) -> Iterable[tuple[str, int]]:
    """Return, by currency, what is left of invoices that nobody collects any more."""
    bill, nothing = invoices.c, sa.literal(0)
    plus = (bill.total_cents, bill.tax_cents)
    minus = (
        bill.discount_cents,
        *(payments.c[f"{name}_cents"] for name in ("amount_paid", "moved", "from_balance", "credited")),
    )
    left = sum((sa.func.coalesce(each, nothing) for each in plus), nothing) - sum(
        (sa.func.coalesce(each, nothing) for each in minus), nothing
    )
    query = (
        sa.select(bill.currency, sa.func.sum(left))
        .outerjoin(payments, payments.c.stripe_invoice_id == bill.stripe_invoice_id)
        .where(bill.month == str(month), bill.state == State.UNCOLLECTIBLE.value)
        .group_by(bill.currency)
    )
    return [(currency, int(cents)) for currency, cents in connection.execute(query)]


def _to_balance(connection: Connection, month: Month) -> Iterable[tuple[str, int]]:
    """Return, by currency, what credit notes gave back to customers' balances, of invoices that stand."""
    query = (
        sa.select(invoices.c.currency, sa.func.sum(payments.c.to_balance_cents))
        .join(payments, payments.c.stripe_invoice_id == invoices.c.stripe_invoice_id)
        .where(invoices.c.month == str(month), invoices.c.state.in_([*INVOICED]))
        .group_by(invoices.c.currency)
    )
    return [(currency, int(cents)) for currency, cents in connection.execute(query)]


def _carried(connection: Connection, month: Month) -> dict[str, int]:
    """Return, by currency, what bills used of earlier credits less what they left, apart from their lines."""
    bill = invoices.c
    query = (
        sa.select(bill.currency, sa.func.sum(bill.credit_applied_cents - bill.carried_cents))
        .where(latest_generation(month), bill.state.in_(_BOOKED))
        .group_by(bill.currency)
    )
    found = Counter({currency: int(cents) for currency, cents in connection.execute(query)})
    for currency, cents in _credits_settled(connection, month):
        found[currency] += cents
    return found


def _credits_settled(connection: Connection, month: Month) -> Iterator[tuple[str, int]]:
    query = sa.select(decisions.c.user_id, decisions.c.content_hash).where(
        decisions.c.month == str(month), decisions.c.kind == DecisionKind.CREDIT_SETTLED.value
    )
    for user_id, content in connection.execute(query):
        yield settled_of(user_id, content)
