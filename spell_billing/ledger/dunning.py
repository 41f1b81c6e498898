"""The steps of our own dunning: what is due, what was asked of Stripe, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.ledger.schema import dunning, invoices, months
from spell_billing.ledger.settling import UNSETTLED
from spell_billing.ledger.upsert import insert_new

ASKED = "asked"
"""The outcome from before the request until its answer is known."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step for one invoice. `step` counts days since finalization."""

    stripe_invoice_id: str
    step: int
    asked_at: datetime
    outcome: str


def unanswered_steps(connection: Connection, limit: int) -> list[Step]:
    """Return the steps that were begun and whose answer is not known, oldest first."""
    query = sa.select(dunning).where(dunning.c.outcome == ASKED).order_by(dunning.c.asked_at).limit(limit)
    return [Step(**row) for row in connection.execute(query).mappings()]


def due_steps(
    connection: Connection, days: Sequence[int], *, now: datetime, at_most_late: timedelta, limit: int
) -> list[tuple[str, int]]:
    """Return invoices that are still open in the ledger, each with the latest step that is due, if not begun.

    Invoices that were sent to be paid by transfer are left out: Stripe has nothing to charge.

    Args:
        connection: To the ledger.
        days: The steps, in days since finalization.
        now: The present.
        at_most_late: A step that was due longer ago is left out.
        limit: So many invoices at most.
    """
    later = sa.exists().where(
        dunning.c.stripe_invoice_id == invoices.c.stripe_invoice_id, dunning.c.step >= sa.bindparam("step")
    )
    found: dict[str, int] = {}
    for step in sorted(days, reverse=True):
        due_since = now - timedelta(days=step)
        query = (
            sa.select(invoices.c.stripe_invoice_id)
            .where(
                invoices.c.month.in_(sa.select(months.c.month)),
                invoices.c.state.in_([state.value for state in UNSETTLED]),
                invoices.c.stripe_invoice_id.is_not(None),
                invoices.c.finalized_at <= due_since,
                invoices.c.finalized_at > due_since - at_most_late,
                ~paid_by_transfer(invoices.c.terms),
                ~later,
            )
            .order_by(invoices.c.finalized_at, invoices.c.id)
            .limit(limit)
        )
        for invoice_id in connection.scalars(query, {"step": step}):
            found.setdefault(invoice_id, step)
    return sorted(found.items(), key=lambda each: -each[1])[:limit]


def paid_by_transfer(terms: sa.ColumnElement[str | None]) -> sa.ColumnElement[bool]:
    """Return the condition that a bill is sent to be paid; its terms begin with what is not usual."""
    return sa.func.coalesce(terms, "").startswith('{"collection":"send"', autoescape=True)


def begin_step(connection: Connection, invoice_id: str, step: int) -> bool:
    """Note that a step is about to be asked; False when it was begun before."""
    row = {"stripe_invoice_id": invoice_id, "step": step, "asked_at": datetime.now(UTC), "outcome": ASKED}
    return insert_new(connection, dunning, [row]) == 1


def end_step(connection: Connection, invoice_id: str, step: int, outcome: str) -> None:
    """Note what came of a step."""
    where = (dunning.c.stripe_invoice_id == invoice_id, dunning.c.step == step)
    connection.execute(dunning.update().where(*where).values(outcome=outcome[:80]))


def steps_of(connection: Connection, invoice_ids: Sequence[str]) -> list[Step]:
    """Return the steps of invoices, in order."""
    query = (
        sa.select(dunning)
        .where(dunning.c.stripe_invoice_id.in_(list(invoice_ids)))
        .order_by(dunning.c.stripe_invoice_id, dunning.c.step)
    )
    return [Step(**row) for row in connection.execute(query).mappings()]
