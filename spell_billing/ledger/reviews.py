"""What the review of a month found, and what people decided about it. Rules are in `core/`, not here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import audit, decisions, reviews


class DecisionKind(StrEnum):
    """What a person decided."""

    APPROVED = "approved"
    HELD = "held"
    RELEASED = "released"
    CREDIT_SETTLED = "credit_settled"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision about a month, or about one user's bill in it. The newest of each user counts.

    Attributes:
        month: The month, as 2026-10.
        user_id: None for the month as a whole.
        kind: What was decided.
        content_hash: What it is bound to: the `drafts_hash` of a review, the `lines_hash` of a released bill.
        reason: In the person's words.
        actor: Who decided.
        at: When, aware.
    """

    month: str
    user_id: str | None
    kind: DecisionKind
    content_hash: str | None
    reason: str
    actor: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Review:
    """What the review of a month's newest drafts found, and the approval of exactly these drafts."""

    month: str
    drafts_hash: str
    findings: Sequence[Mapping[str, Any]]
    reviewed_at: datetime
    approval: Decision | None

    @property
    def needs_approval(self) -> bool:
        """Whether nothing of the month may be sent until a person approves it."""
        return bool(self.findings) and self.approval is None


def read_review(connection: Connection, month: Month) -> Review | None:
    """Return the month's review, or None when its drafts were never reviewed."""
    row = connection.execute(sa.select(reviews).where(reviews.c.month == str(month))).first()
    if row is None:
        return None
    approval = next(
        (
            each
            for each in reversed(read_decisions(connection, month))
            if each.kind is DecisionKind.APPROVED and each.content_hash == row.drafts_hash
        ),
        None,
    )
    return Review(row.month, row.drafts_hash, orjson.loads(row.findings), row.reviewed_at, approval)


def write_review(
    connection: Connection,
    month: Month,
    *,
    drafts_hash: str,
    findings: Sequence[Mapping[str, Any]],
    now: datetime,
) -> None:
    """Keep a review in place of the month's earlier one, in the connection's transaction."""
    connection.execute(reviews.delete().where(reviews.c.month == str(month)))
    connection.execute(
        reviews.insert().values(
            month=str(month),
            drafts_hash=drafts_hash,
            findings=orjson.dumps(list(findings)).decode(),
            reviewed_at=now,
        )
    )


def read_decisions(connection: Connection, month: Month) -> list[Decision]:
    """Return all decisions about the month and its users, oldest first."""
    query = sa.select(decisions).where(decisions.c.month == str(month)).order_by(decisions.c.id)
    return [
        Decision(
            row.month,
            row.user_id,
            DecisionKind(row.kind),
            row.content_hash,
            row.reason,
            row.actor,
            row.at,
        )
        for row in connection.execute(query)
    ]


def write_decision(connection: Connection, decision: Decision, actor: Actor) -> None:
    """Append a decision with its audit entry, in the connection's transaction."""
    write_decisions(connection, [decision])
    connection.execute(
        audit.insert().values(
            at=decision.at,
            actor=decision.actor,
            run_id=actor.run_id,
            month=decision.month,
            user_id=decision.user_id,
            action=decision.kind.value,
            detail=decision.reason,
        )
    )


def write_decisions(connection: Connection, decided: Sequence[Decision]) -> None:
    """Append decisions about bills whose changes have audit entries of their own."""
    if not decided:
        return
    connection.execute(
        decisions.insert(),
        [
            {
                "at": each.at,
                "actor": each.actor,
                "month": each.month,
                "user_id": each.user_id,
                "kind": each.kind.value,
                "content_hash": each.content_hash,
                "reason": each.reason,
            }
            for each in decided
        ],
    )
