"""Keeps a ledger that is older than invoices at Stripe from billing what a person had dealt with.

An invoice is finalized only after the ledger has its id. So a run that was killed leaves no finalized
invoice whose id the ledger lacks: such a one shows that the ledger was restored from a backup, or that
another one bills the account. What people decided since then, as grants and settled bills, is nowhere else.
"""

from datetime import UTC, datetime

from spell_billing.core.outcomes import Reason, State
from spell_billing.core.review import Code
from spell_billing.ledger.cursors import note_older, noted_older
from spell_billing.ledger.reviews import (
    Decision,
    DecisionKind,
    Hold,
    read_decisions,
    read_review,
    read_waiting,
    write_decision,
    write_holds,
)
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.session import MonthSession

_WHY = (
    "Stripe had invoices of the month that this ledger lacked, as after a backup was restored: enter again "
    "who got a grant, was settled, held or moved since the backup; then release --all"
)


class LostDecisions:
    """Notes that decisions are lost, and holds what the month has left to send until a person has looked."""

    def __init__(self, session: MonthSession) -> None:
        self._session = session

    def notice(self) -> None:
        """Note it before the first such invoice is adopted: afterwards nothing shows it any more.

        Where the month's own review told of it, a person has approved the month knowing it.
        """
        with self._session.writing() as connection:
            review = read_review(connection, self._session.month)
            found = review.findings if review else ()
            if Code.DECISIONS_LOST not in {finding["code"] for finding in found}:
                note_older(connection, self._session.month)

    def hold(self) -> None:
        """Hold the bills that are left to send, once for each time it was noted."""
        session, month = self._session, self._session.month
        with session.writing() as connection:
            noted_at = noted_older(connection, month)
            if noted_at is None:
                return
            for each in read_decisions(connection, month):
                if each.kind is DecisionKind.HELD and each.user_id is None and each.at > noted_at:
                    return
            bills = read_waiting(connection, month, invoices.c.state == State.PLANNED.value)
            if not bills:
                return
            now = datetime.now(UTC)
            decision = Decision(str(month), None, DecisionKind.HELD, None, _WHY, session.actor.name, now)
            write_decision(connection, decision, session.actor)
            holds = [Hold(bill, Reason.HELD_BY_PERSON, _WHY) for bill in bills]
            write_holds(connection, month, holds, session.actor, now)
