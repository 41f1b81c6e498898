"""Holds bills that wait to be sent although their account has another customer or currency by now."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from spell_billing.core.outcomes import Reason, State
from spell_billing.core.shown import one_line
from spell_billing.ledger.rows import Bill, Change
from spell_billing.ledger.session import MonthSession
from spell_billing.usage.tables import positions, texts

_BILLS_AT_ONCE = 10_000
_MOST_NAMED = 20


def hold_changed_accounts(session: MonthSession, accounts: Callable[[], pa.Table]) -> list[str]:
    """Hold what would go to a customer, or in a currency, that the account no longer has; return the users.

    Bills that are held are drafted again with the account as it then is, even if the month has begun. A bill
    of which Stripe has a draft is completed as it is.
    """
    users, after_id, now = [], 0, None
    while bills := session.page({State.PLANNED}, after_id=after_id, limit=_BILLS_AT_ONCE):
        now = accounts() if now is None else now
        changes = list(_changes(bills, now))
        session.apply(changes)
        users += [each.before.user_id for each in changes]
        after_id = bills[-1].id
    return users


def in_words(users: Sequence[str]) -> str:
    """Return whose accounts changed, as a clause."""
    others = " and others" if len(users) > _MOST_NAMED else ""
    return f"their account's customer or currency changed: {one_line(', '.join(users[:_MOST_NAMED]))}{others}"


def _changes(bills: list[Bill], accounts: pa.Table) -> Iterator[Change]:
    place = positions(pa.chunked_array([texts(bill.user_id for bill in bills)]), accounts["user_id"])
    customers, currencies = (
        accounts[name].take(place).to_pylist() for name in ("stripe_customer_id", "currency")
    )
    for bill, *now in zip(bills, customers, currencies, strict=True):
        before = [bill.stripe_customer_id, bill.currency]
        if now != before:
            words = f"{_named(*before)}; now {_named(*now)}"
            held = replace(bill, state=State.HELD, reason=Reason.ACCOUNT_CHANGED, message=words)
            yield Change(bill, held, "account_changed", words)


def _named(customer: str | None, currency: str | None) -> str:
    if customer is None:
        return "no account" if currency is None else "no customer"
    return f"{customer} in {currency}"
