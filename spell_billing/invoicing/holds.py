"""Holds single bills while they are drafted: those that a person holds, and those that are not plausible."""

from collections.abc import Mapping
from datetime import UTC, datetime

import sqlalchemy as sa
from msgspec.structs import replace

from spell_billing.core.drafting import Draft
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.plausible import HoldRules, Usual, why_not_plausible
from spell_billing.ledger.comparing import billed_before, usual_amounts
from spell_billing.ledger.holding import Hold, PeoplesHolds, read_waiting, write_holds
from spell_billing.ledger.reviews import read_decisions
from spell_billing.ledger.rows import content_of
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession

_REDRAFTED = (State.FAILED, State.HELD, State.VOID)


class Holding:
    """Says which bills wait and why: by people's decisions, by what is usual for the user, by the rules."""

    def __init__(
        self, people: PeoplesHolds, usual: Mapping[tuple[str, str], Usual], rules: HoldRules
    ) -> None:
        self._people = people
        self._usual = usual
        self._rules = rules

    def why(
        self, user_id: str, currency: str, total_cents: int, lines_hash: str
    ) -> tuple[Reason, str] | None:
        """Say why a bill that could be sent is held; None when it is not."""
        reason = self._people.held_because(user_id, lines_hash)
        if reason is not None:
            return Reason.HELD_BY_PERSON, reason
        if self._people.is_released(user_id, lines_hash):
            return None
        usual = self._usual.get((user_id, currency))
        words = why_not_plausible(total_cents, currency, usual, self._rules)
        return (Reason.NOT_PLAUSIBLE, words) if words else None

    def applied(self, draft: Draft) -> tuple[Draft, str | None]:
        """Return the draft as it is to be written, and why in words where it is held."""
        if draft.state is not State.PLANNED:
            return draft, None
        lines_hash = content_of(draft).lines_hash
        held = self.why(draft.user_id, draft.currency, draft.total_cents, lines_hash)
        if held is None:
            return draft, None
        reason, words = held
        return replace(draft, state=State.HELD, reason=reason), words


def hold_drafts(session: MonthSession, rules: HoldRules) -> None:
    """Hold those of the month's new drafts that are not to be sent."""
    month = session.month
    with session.writing() as connection:
        people = PeoplesHolds(read_decisions(connection, month))
        planned = sa.and_(invoices.c.month == str(month), invoices.c.state == State.PLANNED.value)
        large = invoices.c.total_cents > rules.never_below
        named = sa.true() if people.everybody else invoices.c.user_id.in_(people.users)
        bills = read_waiting(connection, month, planned, sa.or_(large, named))
        if not bills:
            return
        users = sa.select(invoices.c.user_id).where(planned, large)
        holding = Holding(people, usual_amounts(connection, billed_before(connection, month), users), rules)
        holds = [
            Hold(bill, *held)
            for bill in bills
            if (held := holding.why(bill.user_id, bill.currency, bill.total_cents, bill.lines_hash))
        ]
        write_holds(connection, month, holds, session.actor, datetime.now(UTC))


def holding_of_redrafts(session: MonthSession, rules: HoldRules) -> Holding:
    """Read what is needed to hold bills that are drafted again."""
    month = session.month
    with session.writing() as connection:
        waiting = sa.select(invoices.c.user_id).where(
            invoices.c.month == str(month), invoices.c.state.in_([state.value for state in _REDRAFTED])
        )
        usual = usual_amounts(connection, billed_before(connection, month), waiting)
        return Holding(PeoplesHolds(read_decisions(connection, month)), usual, rules)
