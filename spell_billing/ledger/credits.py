"""Credits that months left for users: what is left of them, and what a person settled by hand."""

import re
from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime
from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.drafting import Credit
from spell_billing.core.errors import LedgerError, altered_row
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.moves import Heirs, read_heirs
from spell_billing.ledger.queries import left_something
from spell_billing.ledger.reviews import Decision, DecisionKind, write_decision
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import decisions, invoices

AFTER_ALL = Month.parse("9998-12")
"""A month that all others come before."""
_SETTLED = re.compile(r"([^:]+):(-?[0-9]+)")


def read_credits(
    connection: Connection, month: Month, heirs: Heirs, *, only: Collection[str] | None = None
) -> dict[str, list[Credit]]:
    """Return what the drafts of a month may use, by the user who may use it: of those that moved, the heir.

    What the month grants itself is for later months. Where `only` some users are drafted, what others' bills
    of the month applied is gone.
    """
    bill = invoices.c
    counts = bill.month != str(month)
    if only is not None:
        counts = sa.or_(counts, bill.state.not_in([State.FAILED, State.HELD]))
    # Before the month, what is left in all counts; from it on, what each month used and left.
    since = sa.case((bill.month < str(month), ""), else_=bill.month).label("since")
    amounts = sa.func.sum(bill.carried_cents), sa.func.sum(bill.credit_applied_cents)
    rows = connection.execute(
        sa.select(bill.user_id, bill.currency, since, *amounts)
        .where(counts, bill.state != State.VOID.value, left_something(connection))
        .where(sa.or_(bill.carried_cents != 0, bill.credit_applied_cents != 0))
        .group_by(bill.user_id, bill.currency, "since")
        .order_by("since")
    )
    sums: defaultdict[tuple[str, str], int] = defaultdict(int)
    later: defaultdict[tuple[str, str, bool], int] = defaultdict(int)
    for of, of_month in groupby(rows, key=lambda row: str(row.since)):
        entries = [
            ((heirs.heir_of(user_id), currency), int(carried), int(applied))
            for user_id, currency, _, carried, applied in of_month
        ]
        for owner, _, applied in entries:
            # What a later month used is of what later months left, as far as that goes.
            of_later = min(abs(applied), later[*owner, applied > 0])
            later[*owner, applied > 0] -= of_later
            sums[owner] -= applied - of_later if applied > 0 else applied + of_later
        for owner, carried, _ in entries:
            if not of:
                sums[owner] += carried
            elif of > str(month):
                later[*owner, carried > 0] += abs(carried)
    is_settled = decisions.c.kind == DecisionKind.CREDIT_SETTLED.value
    settled = sa.select(decisions.c.user_id, decisions.c.content_hash).where(is_settled)
    for user_id, content in connection.execute(settled):
        currency, settled_cents = settled_of(user_id, content)
        sums[heirs.heir_of(user_id), currency] -= settled_cents
    found: defaultdict[str, list[Credit]] = defaultdict(list)
    for (user_id, currency), cents in sorted(sums.items()):
        if cents:
            found[user_id].append(Credit(cents, currency))
    return dict(found)


def settled_of(user_id: str, content: str | None) -> tuple[str, int]:
    """Return the currency and the amount that a person settled of a user's credit.

    Raises:
        IntegrityError: when it was altered by hand, and cannot be read.
    """
    read = _SETTLED.fullmatch(content or "")
    if read is None:
        raise altered_row(f"What was settled of user {user_id}'s credit", "ledger_decisions")
    return read[1], int(read[2])


def credits_of(connection: Connection, user_id: str) -> list[Credit]:
    """Return the credits of a user that no bill has used, by currency."""
    return [credit for credit in left_of(connection, user_id) if credit.amount_cents > 0]


def left_of(connection: Connection, user_id: str) -> list[Credit]:
    """Return what all bills left to a user, by currency; below zero it is left to be charged."""
    return read_credits(connection, AFTER_ALL, read_heirs(connection)).get(user_id, [])


def settle_credit(
    connection: Connection,
    month: Month,
    user_id: str,
    currency: str,
    *,
    reason: str,
    actor: Actor,
    now: datetime | None = None,
) -> Credit:
    """Record that a person dealt with a user's whole credit in a currency: no bill offers it again.

    The audit trail of `month`, whose bill the credit holds, tells of it. Return the credit: of nothing, where
    it was settled before.

    Raises:
        LedgerError: when there is no such credit.
        IntegrityError: when what was settled before was altered by hand, and cannot be read.
    """
    found = {credit.currency: credit for credit in credits_of(connection, user_id)}
    if currency not in found:
        of_month = decisions.c.month == str(month), decisions.c.user_id == user_id
        settled = decisions.c.kind == DecisionKind.CREDIT_SETTLED.value
        of_currency = decisions.c.content_hash.startswith(f"{currency}:", autoescape=True)
        if connection.scalar(sa.select(sa.exists().where(*of_month, settled, of_currency))):
            return Credit(0, currency)
        left = ", ".join(format_money(each.amount_cents, each.currency) for each in found.values())
        raise LedgerError(
            f"User {user_id} has no credit in {currency} that is left: {left or 'none in any currency'}.",
            remedy="If late usage or a fee in it holds the bill, bill the user by hand, and settle the bill "
            "with --as billed-by-hand. `spell-billing explain` shows the user's bills.",
        )
    credit = found[currency]
    kind, what = DecisionKind.CREDIT_SETTLED, f"{currency}:{credit.amount_cents}"
    at = now or datetime.now(UTC)
    write_decision(connection, Decision(str(month), user_id, kind, what, reason, actor.name, at), actor)
    return credit
