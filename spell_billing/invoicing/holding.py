"""Which bills of a month are held: by people's decisions, by what users were charged before, by the rules."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.drafting import Draft
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.plausible import HoldRules, Usual, why_not_plausible
from spell_billing.ledger.reviews import PeoplesHolds, read_decisions
from spell_billing.ledger.rows import content_of
from spell_billing.ledger.schema import invoices
from spell_billing.ledger.totals import billed_before, usual_amounts


@dataclass(frozen=True, slots=True)
class Holding:
    """Holds bills by people's decisions, by what users were charged before, and by the rules."""

    people: PeoplesHolds
    usual: Mapping[tuple[str, str], Usual]
    rules: HoldRules

    def why(
        self, user_id: str, currency: str, total_cents: int, lines_hash: str
    ) -> tuple[Reason, str] | None:
        """Return why a bill that could be sent is held; None when it is not."""
        by_name = self.people.held_by_name(user_id, lines_hash)
        if by_name is None and not self.people.is_released(user_id, lines_hash):
            usual = self.usual.get((user_id, currency))
            words = why_not_plausible(total_cents, currency, usual, self.rules)
            # A reason of its own comes before a hold of all bills, and outlasts it.
            if words is not None:
                return Reason.NOT_PLAUSIBLE, words
        reason = self.people.held_because(user_id, lines_hash)
        return (Reason.HELD_BY_PERSON, reason) if reason is not None else None

    def applied(self, draft: Draft) -> tuple[Draft, str | None]:
        """Return the draft as it is to be written, and why in words where it is held."""
        if draft.state is State.PLANNED:
            lines_hash = content_of(draft)["lines_hash"]
            held = self.why(draft.user_id, draft.currency, draft.total_cents, lines_hash)
            if held is not None:
                reason, words = held
                return msgspec.structs.replace(draft, state=State.HELD, reason=reason), words
        return draft, None


def holding_of(
    connection: Connection, month: Month, bills: sa.ColumnElement[bool], rules: HoldRules
) -> Holding:
    """Read what is needed to hold bills of the month that meet the condition."""
    users = sa.select(invoices.c.user_id).where(invoices.c.month == str(month), bills)
    usual = usual_amounts(connection, billed_before(connection, month), users)
    return Holding(PeoplesHolds(read_decisions(connection, month)), usual, rules)
