"""What is left to do in a month, as the ledger has it: what a run can do, and what waits for a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import TO_DRIVE, Reason, State
from spell_billing.ledger.month_state import MonthState, is_in_review, state_of_month
from spell_billing.ledger.queries import latest_generation, read_month
from spell_billing.ledger.reviews import Review, read_review
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.schema import audit, invoices

_FOR_A_PERSON = (State.FAILED, State.HELD, State.PARKED)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a month stands.

    Attributes:
        month: The month.
        record: The ledger's record of it; None when it was never drafted.
        to_drive: Users whose bill the next run sends on.
        waiting: Users who wait for a person: failed, held, parked.
        voided: Users whose invoice was voided, to be billed again when somebody says so.
        last_voided_at: When the newest of these was voided, or last changed.
        review: Of the drafts, where they were reviewed.
        times_billed: How often the month was finished; it is open again when a voided bill is billed again.
    """

    month: Month
    record: MonthRecord | None
    to_drive: int
    waiting: int
    voided: int
    last_voided_at: datetime | None
    times_billed: int
    review: Review | None = None

    @property
    def in_review(self) -> bool:
        """Whether the drafts wait for a person to approve them; nothing is sent until then."""
        return is_in_review(self.record, self.review)

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
    """Read where a month stands."""
    voided = sa.and_(invoices.c.state == State.VOID.value, invoices.c.reason == Reason.VOIDED.value)
    rows = connection.execute(
        sa.select(invoices.c.state, sa.func.count(), sa.func.max(invoices.c.updated_at))
        .where(latest_generation(month))
        .where(sa.or_(invoices.c.state.in_([*TO_DRIVE, *_FOR_A_PERSON]), voided))
        .group_by(invoices.c.state)
    ).all()
    users = {State(state): count for state, count, _ in rows}
    times_billed = connection.scalar(
        sa.select(sa.func.count()).where(
            audit.c.month == str(month), audit.c.user_id.is_(None), audit.c.action == "month_billed"
        )
    )
    return Standing(
        month=month,
        record=read_month(connection, month),
        to_drive=sum(users.get(state, 0) for state in TO_DRIVE),
        waiting=sum(users.get(state, 0) for state in _FOR_A_PERSON),
        voided=users.get(State.VOID, 0),
        last_voided_at=next((changed for state, _, changed in rows if state == State.VOID), None),
        times_billed=times_billed or 0,
        review=read_review(connection, month),
    )


def closed_months(recorded: Sequence[MonthRecord], *, first: Month, now: datetime) -> list[Month]:
    """Return the closed months from the first one recorded on, oldest first; with none recorded, the last.

    Args:
        recorded: The ledger's months, oldest first.
        first: Months before it are never billed.
        now: An aware datetime.
    """
    last = Month.containing(now).previous()
    month = max(Month.parse(recorded[0].month) if recorded else last, first)
    found = []
    while month <= last:
        found.append(month)
        month = month.next()
    return found
