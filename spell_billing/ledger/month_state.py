"""Where a month stands: the one definition that commands, pages, metrics, sensors and schedule share."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import TO_DRIVE, UNDONE, Reason, State
from spell_billing.ledger.queries import IS_VOIDED, is_replaced, latest_generation, read_month
from spell_billing.ledger.reviews import Review, read_review
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.schema import audit, invoices, months

MonthState = Literal["open", "unbilled", "in_review", "partial", "billed"]

FOR_A_PERSON = (State.FAILED, State.HELD, State.PARKED)
"""Users with a bill in one of these states wait for a person."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left to do in a month, for a run and for people."""

    month: Month
    record: MonthRecord | None
    to_drive: int
    """Users whose bill the next run sends on."""
    waiting: int
    """Users who wait for a person."""
    voided: int
    """Users whose invoice was voided, to be billed again when somebody says so."""
    last_voided_at: datetime | None
    """When the newest of these was voided, or last changed."""
    times_billed: int
    """How often the month was finished; it is open again when a voided bill is billed again."""
    review: Review | None

    @property
    def in_review(self) -> bool:
        """Whether the drafts wait for a person to approve them; nothing is sent until then."""
        return _is_in_review(self.record, self.review)

    def state(self, now: datetime) -> MonthState:
        """Return where the month stands at the aware datetime `now`."""
        undone = bool(self.to_drive or self.waiting or self.voided)
        return state_of_month(self.month, self.record, self.review, undone=undone, now=now)

    @property
    def started(self) -> bool:
        """Whether billing has started."""
        return self.record is not None and self.record.billing_started_at is not None

    @property
    def needs_run(self) -> bool:
        """Whether a run would do something without a person's help.

        So it is when the month was never drafted, or only drafted; when users are left to send; and when
        everything is done but the run died before it said so. A month in review waits for its approval.
        """
        if self.in_review:
            return False
        if self.record is None or not self.started or self.to_drive:
            return True
        return self.record.billed_at is None and not self.waiting and not self.voided


def read_standing(connection: Connection, month: Month) -> Standing:
    """Read what is left to do in a month."""
    rows = connection.execute(
        sa.select(invoices.c.state, sa.func.count(), sa.func.max(invoices.c.updated_at))
        .where(latest_generation(month))
        .where(sa.or_(invoices.c.state.in_([*TO_DRIVE, *FOR_A_PERSON]), IS_VOIDED))
        .group_by(invoices.c.state)
    ).all()
    users = {state: count for state, count, _ in rows}
    times_billed = sa.select(sa.func.count()).where(
        audit.c.month == str(month), audit.c.user_id.is_(None), audit.c.action == "month_billed"
    )
    return Standing(
        month=month,
        record=read_month(connection, month),
        to_drive=sum(users.get(state, 0) for state in TO_DRIVE),
        waiting=sum(users.get(state, 0) for state in FOR_A_PERSON),
        voided=users.get(State.VOID, 0),
        last_voided_at=next((changed for state, _, changed in rows if state == State.VOID), None),
        times_billed=connection.scalar(times_billed) or 0,
        review=read_review(connection, month),
    )


def state_of_month(
    month: Month, record: MonthRecord | None, review: Review | None, *, undone: bool, now: datetime
) -> MonthState:
    """Return where a month stands at the aware datetime `now`; `undone`: any user's latest bill is."""
    if record is None or record.billing_started_at is None:
        if _is_in_review(record, review):
            return "in_review"
        return "unbilled" if month.is_closed(now) else "open"
    return "billed" if record.billed_at is not None and not undone else "partial"


def is_undone(state: State, reason: Reason | None) -> bool:
    """Return whether a user's latest bill keeps the month from being billed.

    So does a bill without an invoice, one that somebody must look at, and one that was voided to be billed
    again.
    """
    return state in UNDONE or (state is State.VOID and reason is Reason.VOIDED)


def undone_months(connection: Connection, *among: Month) -> set[Month]:
    """Return the drafted months, or those of them among the given, in which some user's bill is undone."""
    undone = [
        sa.exists().where(invoices.c.month == months.c.month, condition, ~is_replaced())
        for condition in (invoices.c.state.in_([*UNDONE]), IS_VOIDED)
    ]
    query = sa.select(months.c.month).where(sa.or_(*undone))
    if among:
        query = query.where(months.c.month.in_([str(month) for month in among]))
    return {Month.parse(month) for month in connection.scalars(query)}


def closed_months(recorded: Sequence[MonthRecord], *, first: Month, now: datetime) -> list[Month]:
    """Return the closed months from the first one recorded on, oldest first; with none recorded, the last.

    Months before `first` are never billed; `now` is an aware datetime.
    """
    last = Month.containing(now).previous()
    return max(Month.parse(recorded[0].month) if recorded else last, first).through(last)


def _is_in_review(record: MonthRecord | None, review: Review | None) -> bool:
    drafted = record is not None and record.billing_started_at is None
    return drafted and review is not None and review.needs_approval
