"""What invoices moved to and from the balances of customers at Stripe, and what people put there."""

from collections import Counter, defaultdict

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED
from spell_billing.core.review import Code
from spell_billing.core.review_ledger import LeftBalance
from spell_billing.ledger.column_types import above_zero
from spell_billing.ledger.money_tables import payments
from spell_billing.ledger.moves import read_heirs
from spell_billing.ledger.reviews import findings_told
from spell_billing.ledger.schema import invoices

_ROWS_AT_ONCE = 5_000
_Balance = tuple[str, str]
"""A customer at Stripe, and a currency."""


def read_left_balances(connection: Connection, month: Month) -> list[LeftBalance]:
    """Return what is on balances of customers whom users of the month's drafts had, and have no more.

    A customer with another bill in the month takes it up there. What a review of an earlier month has told,
    in the same amount, is left out: somebody has dealt with it.
    """
    balances = _balances(connection)
    if not balances:
        return []
    bill, heir_of = invoices.c, read_heirs(connection).heir_of
    drafted = sa.select(bill.user_id, bill.stripe_customer_id).where(
        bill.month == str(month), bill.stripe_customer_id.is_not(None)
    )
    customers = {row[0]: row[1] for row in connection.execute(drafted) if heir_of(row[0]) == row[0]}
    in_use, told = set(customers.values()), _told(connection)
    left = []
    for (customer, currency), (cents, users) in balances.items():
        if customer in in_use or (customer, currency, cents) in told:
            continue
        for user in users:
            if (now := customers.get(heir_of(user))) is not None:
                left.append(LeftBalance(user, customer, now, currency, cents))
                break
    return sorted(left, key=lambda each: each.user)


def _balances(connection: Connection) -> dict[_Balance, tuple[int, list[str]]]:
    """Return what invoices left on balances, by customer and currency, with the users they billed."""
    paid, bill = payments.c, invoices.c
    of = (bill.stripe_customer_id, bill.currency, bill.user_id)
    amounts = (
        paid.moved_cents + paid.from_balance_cents - paid.to_balance_cents,
        above_zero(paid.moved_cents),
        above_zero(-paid.from_balance_cents) + paid.to_balance_cents,
    )
    query = (
        sa.select(*of, *map(sa.func.sum, amounts))
        .join(payments, paid.stripe_invoice_id == bill.stripe_invoice_id)
        .where(sa.or_(paid.moved_cents != 0, paid.from_balance_cents != 0, paid.to_balance_cents != 0))
        .where(paid.status != "void")
        .group_by(*of)
        .order_by(*of)
    )
    left, debt, credit = Counter[_Balance](), Counter[_Balance](), Counter[_Balance]()
    users: defaultdict[_Balance, list[str]] = defaultdict(list)
    for customer, currency, user, left_cents, debt_cents, credit_cents in connection.execute(query):
        balance = customer, currency
        left[balance] += int(left_cents)
        debt[balance] += int(debt_cents)
        credit[balance] += int(credit_cents)
        users[balance].append(user)
    # A balance that a person made at Stripe is none of ours, used or not.
    ours = {balance: min(max(left[balance], -credit[balance]), debt[balance]) for balance in users}
    return {balance: (cents, users[balance]) for balance, cents in ours.items() if cents}


def _told(connection: Connection) -> set[tuple[str, str, int]]:
    return {
        (each["customer"], each["currency"], each["cents"])
        for _, data in findings_told(connection, Code.BALANCE_LEFT_BEHIND)
        for each in data["balances"]
    }


def put_by_hand(connection: Connection, month: Month) -> Counter[str]:
    """Return, by currency, what the month's invoices used of balances beyond what the ledger knows of.

    The ledger knows what invoices moved to later ones, and what credit notes gave to a balance: the rest was
    put there by a person. Above zero it was to the customer's credit, below zero to be charged.
    """
    paid = payments.c
    used = sa.or_(paid.from_balance_cents > 0, paid.moved_cents < 0)
    stands = invoices.c.state.in_([state.value for state in INVOICED])
    joined = payments.join(invoices, invoices.c.stripe_invoice_id == paid.stripe_invoice_id)
    customers = (
        sa.select(invoices.c.stripe_customer_id)
        .select_from(joined)
        .where(paid.month == str(month), used, stands)
    )
    if connection.scalar(customers.limit(1)) is None:
        return Counter()
    beside = sa.or_(paid.from_balance_cents != 0, paid.moved_cents != 0, paid.to_balance_cents != 0)
    rows = connection.execute(
        sa.select(invoices.c.stripe_customer_id, invoices.c.currency, paid.month)
        .add_columns(paid.moved_cents, paid.from_balance_cents, paid.to_balance_cents)
        .select_from(joined)
        .where(paid.month <= str(month), beside, stands, invoices.c.stripe_customer_id.in_(customers))
        .order_by(paid.month, invoices.c.finalized_at, paid.stripe_invoice_id)
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    known: Counter[tuple[str, str]] = Counter()
    by_hand: Counter[str] = Counter()
    for customer_id, currency, of, moved_cents, used_cents, given_cents in rows:
        customer = (customer_id, currency)
        put_cents = _beyond(known[customer], moved_cents, used_cents)
        known[customer] += put_cents - used_cents - moved_cents + given_cents
        if of == str(month):
            by_hand[currency] += put_cents
    return by_hand


def _beyond(known_cents: int, moved_cents: int, used_cents: int) -> int:
    """Return what must have been on a balance beside what is known, to the customer's credit above zero."""
    if used_cents > 0:
        return max(0, used_cents - known_cents)
    return min(0, moved_cents - known_cents) if moved_cents < 0 else 0
