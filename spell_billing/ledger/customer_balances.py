"""What people put on customers' balances at Stripe, as far as invoices used it."""

from collections import Counter

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED
from spell_billing.ledger.money_tables import payments
from spell_billing.ledger.schema import invoices

_ROWS_AT_ONCE = 5_000


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
