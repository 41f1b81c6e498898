"""Reading bills and months on a given connection, the conditions that choose bills, and sums over lines."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError
from spell_billing.core.late import Usage
from spell_billing.core.lines import RECORDED, Line, load_lines
from spell_billing.core.month import Month
from spell_billing.core.outcomes import TO_DRIVE, Reason, State
from spell_billing.ledger.column_types import read_as
from spell_billing.ledger.rows import Bill, MonthRecord
from spell_billing.ledger.schema import LEFT_SOMETHING, invoices, months

WITH_REASON = (State.FAILED, State.HELD, State.PARKED, State.VOID, State.SETTLED)
"""Bills in these states have a reason, as skipped ones do, which may be most of a month."""

IS_VOIDED = sa.and_(invoices.c.state == State.VOID.value, invoices.c.reason == Reason.VOIDED.value)
"""The condition for bills that were voided to be billed again."""

_USERS_A_QUERY = 500
_ROWS_AT_ONCE = 5_000

# Made once: a table of this width takes milliseconds to make an alias of.
_OLDER, _NEWER = invoices.alias(), invoices.alias()


def read_month(connection: Connection, month: Month) -> MonthRecord | None:
    """Return the month's record, or None."""
    query = sa.select(months).where(months.c.month == str(month))
    return next(iter(read_as(connection, MonthRecord, query)), None)


def read_months(connection: Connection) -> list[MonthRecord]:
    """Return all drafted months, oldest first."""
    return read_as(connection, MonthRecord, sa.select(months).order_by(months.c.month))


def started_months(connection: Connection) -> list[MonthRecord]:
    """Return the drafted months whose billing has started, oldest first."""
    return [each for each in read_months(connection) if each.billing_started_at is not None]


def is_counted_on(connection: Connection, record: MonthRecord) -> bool:
    """Return whether another month was drafted or pinned since this one was begun: it counts with it."""
    since = record.billing_started_at
    others = sa.exists().where(
        months.c.month != record.month,
        sa.or_(months.c.drafted_at >= since, months.c.billing_started_at >= since),
    )
    return bool(connection.scalar(sa.select(others)))


def read_bills(
    connection: Connection,
    month: Month | str,
    *conditions: sa.ColumnElement[bool],
    states: Iterable[State] | None = None,
    after_id: int = 0,
    limit: int | None = None,
) -> list[Bill]:
    """Return the month's bills that meet all conditions and have ids above `after_id`, in their order."""
    query = sa.select(invoices).where(invoices.c.month == str(month), *conditions)
    if after_id:
        query = query.where(invoices.c.id > after_id)
    if states is not None:
        query = query.where(invoices.c.state.in_([state.value for state in states]))
    return read_as(connection, Bill, query.order_by(invoices.c.id).limit(limit))


def read_bills_of_customer(
    connection: Connection, like: Bill, states: Iterable[State], *, ids: range, limit: int
) -> list[Bill]:
    """Return a page of the bills of a bill's month and Stripe customer with ids in a range."""
    of_customer = invoices.c.stripe_customer_id == like.stripe_customer_id
    in_range = (invoices.c.id >= ids.start) & (invoices.c.id < ids.stop)
    return read_bills(connection, like.month, of_customer, in_range, states=states, limit=limit)


def read_bills_to_redraft(connection: Connection, month: Month) -> list[Bill]:
    """Return the latest bills that failed or are held, and those voided to be billed again.

    A skipped bill is not among them: nothing was due, and a plan that changes later does not alter that.
    """
    unsent = invoices.c.state.in_([State.FAILED.value, State.HELD.value])
    return read_bills(connection, month, latest_generation(month), sa.or_(unsent, IS_VOIDED))


def require_no_credit_under_way(connection: Connection, users: Collection[str]) -> None:
    """Refuse to change whose credit it is, or what uses it, before bills that use it are sent.

    They are not drafted again, and are proven against the credits of now: their month would stand still.

    Raises:
        LedgerError: naming the first such bill.
    """
    begun = sa.select(months.c.month).where(months.c.billing_started_at.is_not(None))
    row = connection.execute(
        sa.select(invoices.c.user_id, invoices.c.month)
        .where(invoices.c.month.in_(begun), invoices.c.state.in_([state.value for state in TO_DRIVE]))
        .where(invoices.c.user_id.in_(list(users)), invoices.c.credit_applied_cents != 0)
        .order_by(invoices.c.month, invoices.c.id)
    ).first()
    if row is not None:
        raise LedgerError(
            f"The bill of user {row.user_id} for {row.month} uses a credit, and is not sent yet.",
            remedy=f"Send it first (spell-billing bill --month {row.month}), then run this again.",
        )


def latest_generation(month: Month) -> sa.ColumnElement[bool]:
    """Return the condition that chooses each user's latest bill of the month."""
    # Few bills have a second generation, and an index of their own: to list what those replaced costs half of
    # asking about every bill. The number is a literal, because an index of some rows fits no parameter.
    replaced = sa.select(_OLDER.c.id).where(
        _NEWER.c.month == str(month),
        _NEWER.c.generation > sa.literal_column("1"),
        _OLDER.c.month == _NEWER.c.month,
        _OLDER.c.user_id == _NEWER.c.user_id,
        _OLDER.c.generation < _NEWER.c.generation,
    )
    return sa.and_(invoices.c.month == str(month), invoices.c.id.not_in(replaced))


def is_replaced() -> sa.ColumnElement[bool]:
    """Return the condition that a later generation of a bill exists."""
    return sa.exists().where(
        _NEWER.c.month == invoices.c.month,
        _NEWER.c.user_id == invoices.c.user_id,
        _NEWER.c.generation > invoices.c.generation,
    )


_HAS_LINES_TO_READ = sa.or_(
    invoices.c.late_lines > 0, invoices.c.plan_cents != 0, invoices.c.rating.is_not(None)
)
_NAMES = (
    *("user_id", "month", "generation", "state", "reason", "stripe_customer_id", "plan_id", "currency"),
    *("calls", "usage_cents", "unbilled_calls", "unbilled_usage_cents"),
    *("included_cents", "rating", "total_cents", "tax_cents", "discount_cents", "late_cents"),
    *("credit_applied_cents", "stripe_invoice_id"),
)
TELLING = (
    *(invoices.c[name] for name in _NAMES),
    sa.case((_HAS_LINES_TO_READ, invoices.c.lines), else_="[]").label("lines"),
)
"""What tells which usage and fees a bill charges; the lines of most bills need not be read for it."""


def latest_bills(connection: Connection, users: Iterable[str]) -> Iterator[sa.Row[Any]]:
    """Return what tells about the latest bills of users in all months: some users at a time, by month."""
    in_order = sorted(users)
    for first in range(0, len(in_order), _USERS_A_QUERY):
        query = sa.select(*TELLING).where(
            of_drafted_months(), invoices.c.user_id.in_(in_order[first : first + _USERS_A_QUERY])
        )
        order = (invoices.c.month, invoices.c.user_id, invoices.c.generation)
        rows = connection.execute(query.order_by(*order))
        yield from {(row.month, row.user_id): row for row in rows}.values()


def of_drafted_months() -> sa.ColumnElement[bool]:
    """Return a condition that all bills meet, for finding bills of all months.

    Bills are indexed by month and user, and by month and state: looked up month by month, they need no index
    by user alone, which takes a tenth of the time of writing drafts.
    """
    return invoices.c.month.in_(sa.select(months.c.month))


def left_something(connection: Connection) -> sa.ColumnElement[bool]:
    """Return the condition for bills that other months' drafts must know of, as their index has it.

    Narrower conditions imply it; written out in full, the database reads these bills alone. SQLite takes an
    index for a range only, and all months are one.
    """
    return sa.and_(sa.text(LEFT_SOMETHING[connection.dialect.name]), invoices.c.month > "")


def lines_told(
    connection: Connection,
    kinds: Collection[str],
    columns: Sequence[sa.ColumnElement[Any]],
    *which: sa.ColumnElement[bool],
) -> Iterator[tuple[Any, Line]]:
    """Return the lines of some kinds of `TOLD_TO_OTHERS` on bills that meet conditions, with their bills."""
    rows = connection.execute(
        sa.select(*columns, invoices.c.lines)
        .where(left_something(connection), invoices.c.late_lines > 0, *which)
        .where(sa.or_(*(has_line_of(kind) for kind in sorted(kinds))))
    )
    for row in rows:
        for line in load_lines(row.lines):
            if line.kind in kinds:
                yield row, line


def told_of_own_month(connection: Connection, *, since: Month, before: Month) -> dict[str, Usage]:
    """Sum by month what the latest bills tell of their own month beyond what was frozen with it."""
    told: defaultdict[str, Usage] = defaultdict(Usage)
    in_range = sa.and_(invoices.c.month >= str(since), invoices.c.month < str(before))
    for row, line in lines_told(connection, RECORDED, [invoices.c.month], in_range, ~is_replaced()):
        if line.usage_month == row.month:
            told[row.month] += Usage(line.calls, Decimal(line.usage_cents))
    return told


def line_totals(connection: Connection, month: Month, kinds: Collection[str]) -> dict[str, Counter[str]]:
    """Sum the lines of these kinds on the month's latest bills, by kind and currency, in minor units."""
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row, line in lines_told(connection, kinds, [invoices.c.currency], latest_generation(month)):
        sums[line.kind][row.currency] += line.amount_cents
    return dict(sums)


def has_line_of(kind: str) -> sa.ColumnElement[bool]:
    """Return the condition for bills that have a line of this kind."""
    return invoices.c.lines.contains(f'"kind":"{kind}"')


def drafts_hash(connection: Connection, month: Month) -> str:
    """Fingerprint what the month's first bills charge whom: equal drafts give an equal hash, in any state.

    A bill that takes the place of a void one is drafted after the review.
    """
    bill = invoices.c
    parts = sa.cast(bill.lines_hash, sa.Text) + "|" + bill.currency + "|" + sa.cast(bill.total_cents, sa.Text)
    query = (
        sa.select(parts + "|" + bill.user_id)
        .where(bill.month == str(month), bill.generation == 1)
        .order_by(bill.id)
    )
    digest = hashlib.sha256()
    rows = connection.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)).scalars()
    for batch in rows.partitions():
        digest.update("\n".join(batch).encode())
        digest.update(b"\n")
    return digest.hexdigest()
