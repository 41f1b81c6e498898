"""What earlier months left for a month's drafts: credits, and what was billed for usage that came late."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.drafting import ADJUSTMENT, LATE_KINDS, UNBILLED, Credit, load_lines
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.queries import of_drafted_months
from spell_billing.ledger.schema import LEFT_SOMETHING, invoices, months

_USERS_A_QUERY = 500

BillOf = tuple[str, str]
"""A bill by user and month."""


@dataclass(slots=True)
class Billed:
    """What was billed for one user's usage of a month: with the month itself, and by later lines.

    `adjusted_calls` and `adjusted_cents` are the part of the later lines that made up for adopted invoices,
    less the late usage that adopted invoices left open.
    """

    usage_cents: Decimal = Decimal(0)
    included_cents: int = 0
    currency: str | None = None
    unbilled_calls: int = 0
    unbilled_usage_cents: Decimal = Decimal(0)
    adjusted_calls: int = 0
    adjusted_cents: Decimal = Decimal(0)


@dataclass(slots=True)
class History:
    """Credits by user, and what was billed for the bills that need a late line."""

    credits: dict[str, Credit] = field(default_factory=dict)
    billed: dict[BillOf, Billed] = field(default_factory=dict)


def read_history(connection: Connection, month: Month, late: Collection[BillOf]) -> History:
    """Read what the drafts of `month` must know of all other months.

    Args:
        connection: To the ledger.
        month: The month that is drafted; its own rows do not count.
        late: Bills of earlier months whose usage has changed since.

    Returns:
        The credits, and what was billed for `late` and for every earlier bill that an adopted invoice left
        short.
    """
    short = connection.execute(
        sa.select(invoices.c.user_id, invoices.c.month)
        .where(_live(month), _left_something(connection))
        .where(invoices.c.month < str(month), sa.or_(*_left_short()))
    ).all()
    wanted = {(str(user), str(of)) for user, of in short} | set(late) | _late_left_open(connection, month)
    return History(_credits(connection, month), _billed(connection, month, wanted) if wanted else {})


def pinned_versions(connection: Connection, *, since: Month, before: Month) -> list[tuple[Month, str]]:
    """Give the months in a range whose billing has started, with their frozen usage versions."""
    rows = connection.execute(
        sa.select(months.c.month, months.c.usage_version)
        .where(months.c.billing_started_at.is_not(None))
        .where(months.c.month >= str(since), months.c.month < str(before))
        .order_by(months.c.month)
    ).all()
    return [(Month.parse(month), version) for month, version in rows]


def _live(month: Month) -> sa.ColumnElement[bool]:
    return sa.and_(invoices.c.month != str(month), invoices.c.state != State.VOID.value)


def _left_something(connection: Connection) -> sa.ColumnElement[bool]:
    # Narrower conditions imply it; said as the index has it, the database reads these bills alone. SQLite
    # takes an index for a range only, and all months are one.
    return sa.and_(LEFT_SOMETHING[connection.dialect.name], invoices.c.month > "")


def _left_short() -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return invoices.c.unbilled_calls != 0, invoices.c.unbilled_usage_cents != Decimal(0)


def _late_left_open(connection: Connection, month: Month) -> set[BillOf]:
    rows = connection.execute(
        sa.select(invoices.c.user_id, invoices.c.lines).where(
            _live(month),
            _left_something(connection),
            invoices.c.late_lines > 0,
            invoices.c.lines.contains(f'"kind":"{UNBILLED}"'),
        )
    ).all()
    return {
        (user, line.usage_month)
        for user, lines in rows
        for line in load_lines(lines)
        if line.kind == UNBILLED and line.usage_month < str(month)
    }


def _credits(connection: Connection, month: Month) -> dict[str, Credit]:
    carried = sa.case((invoices.c.month < str(month), invoices.c.carried_cents), else_=0)
    left = sa.func.sum(carried - invoices.c.credit_applied_cents)
    rows = connection.execute(
        sa.select(invoices.c.user_id, invoices.c.currency, left)
        .where(_live(month), _left_something(connection))
        .where(sa.or_(invoices.c.carried_cents > 0, invoices.c.credit_applied_cents > 0))
        .group_by(invoices.c.user_id, invoices.c.currency)
        .having(left > 0)
        .order_by(invoices.c.user_id, invoices.c.currency)
    ).all()
    return {user: Credit(int(amount), currency) for user, currency, amount in rows}


def _billed(connection: Connection, month: Month, wanted: Collection[BillOf]) -> dict[BillOf, Billed]:
    found: dict[BillOf, Billed] = defaultdict(Billed)
    users = iter(sorted({user for user, _ in wanted}))
    while chunk := list(islice(users, _USERS_A_QUERY)):
        rows = connection.execute(
            sa.select(
                invoices.c.user_id,
                invoices.c.month,
                invoices.c.usage_cents,
                invoices.c.included_cents,
                invoices.c.currency,
                invoices.c.unbilled_calls,
                invoices.c.unbilled_usage_cents,
                sa.case((invoices.c.late_lines > 0, invoices.c.lines), else_="[]").label("lines"),
            ).where(_live(month), of_drafted_months(), invoices.c.user_id.in_(chunk))
        ).all()
        for row in rows:
            own = found[row.user_id, row.month]
            own.usage_cents = exact_sum(own.usage_cents, row.usage_cents)
            own.included_cents = row.included_cents
            own.currency = row.currency
            own.unbilled_calls = row.unbilled_calls
            own.unbilled_usage_cents = row.unbilled_usage_cents
            for line in load_lines(row.lines):
                about = found[row.user_id, line.usage_month]
                usage_cents = Decimal(line.usage_cents)
                if line.kind == UNBILLED:
                    about.adjusted_calls -= line.calls
                    about.adjusted_cents = exact_sum(about.adjusted_cents, usage_cents.copy_negate())
                if line.kind in LATE_KINDS:
                    about.usage_cents = exact_sum(about.usage_cents, usage_cents)
                    if line.kind == ADJUSTMENT:
                        about.adjusted_calls += line.calls
                        about.adjusted_cents = exact_sum(about.adjusted_cents, usage_cents)
    return {bill: found[bill] for bill in wanted if bill in found}
