"""What users are charged in a month against the month before: how many more or less, and by how much."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.schema import invoices

LARGEST = 20


@dataclass(frozen=True, slots=True)
class UserChange:
    """One user's totals of both months, in minor units of the currency."""

    user_id: str
    currency: str
    before_cents: int
    now_cents: int


@dataclass(frozen=True, slots=True)
class MonthChanges:
    """Users by how their totals changed, and the largest changes, the largest first."""

    counts: Mapping[str, int]
    largest: Sequence[UserChange]


def read_changes(connection: Connection, month: Month) -> MonthChanges:
    """Compare the bills of a month, void ones aside, with those of the month before. No currencies are added.

    Credits count as nothing, as in a month's totals.
    """
    is_now = invoices.c.month == str(month)
    cents = sa.case((invoices.c.total_cents > 0, invoices.c.total_cents), else_=0)
    now = sa.func.sum(sa.case((is_now, cents), else_=0))
    before = sa.func.sum(sa.case((is_now, 0), else_=cents))
    users = (
        sa.select(
            invoices.c.user_id, invoices.c.currency, before.label("before_cents"), now.label("now_cents")
        )
        .where(
            invoices.c.month.in_([str(month), str(month.previous())]), invoices.c.state != State.VOID.value
        )
        .group_by(invoices.c.user_id, invoices.c.currency)
        .having(sa.or_(before != 0, now != 0))
        .subquery()
    )
    by = users.c.now_cents - users.c.before_cents
    change = sa.case(
        (users.c.before_cents == 0, "new"),
        (users.c.now_cents == 0, "gone"),
        (by > 0, "pay more"),
        (by < 0, "pay less"),
        else_="pay the same",
    )
    counts = connection.execute(sa.select(change, sa.func.count()).group_by(change))
    largest = connection.execute(
        sa.select(users).where(by != 0).order_by(sa.func.abs(by).desc(), users.c.user_id).limit(LARGEST)
    )
    order = ("new", "gone", "pay more", "pay less", "pay the same")
    found: dict[str, int] = {str(name): int(count) for name, count in counts}
    return MonthChanges(
        {name: found[name] for name in order if name in found},
        [UserChange(row.user_id, row.currency, int(row.before_cents), int(row.now_cents)) for row in largest],
    )
