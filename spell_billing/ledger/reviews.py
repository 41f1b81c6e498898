"""What the review of a month found, what people decided about it, and the bills that wait for that."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import altered_row
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.column_types import columns_of, put_row, read_as
from spell_billing.ledger.queries import latest_generation
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import decisions, invoices, months, reviews


class DecisionKind(StrEnum):
    """What a person decided."""

    APPROVED = "approved"
    AGREED = "agreed"
    """An approval of a month that needs another person's as well."""
    HELD = "held"
    RELEASED = "released"
    CREDIT_SETTLED = "credit_settled"
    GIVEN_BACK_SETTLED = "given_back_settled"


_APPROVALS = frozenset({DecisionKind.APPROVED, DecisionKind.AGREED})
_NOBODY = "secret"
"""What the server calls who comes with the one secret; a session of theirs has an id for a name."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision about a month (`user_id` None), or about one user's bill in it. The newest counts.

    `content_hash` is what it is bound to: a review's `drafts_hash`, or the `lines_hash` of a released bill.
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
    """What the review of a month's newest drafts found, and the approvals of exactly these drafts.

    `approvals` has the first of each person.
    """

    month: str
    drafts_hash: str
    findings: Sequence[Mapping[str, Any]]
    reviewed_at: datetime
    approvals_needed: int
    approvals: Sequence[Decision]

    @property
    def approvals_missing(self) -> int:
        """How many more people must approve."""
        return max(0, self.approvals_needed - len(self.approvals)) if self.findings else 0

    @property
    def approval(self) -> Decision | None:
        """The approval that was the last one needed; None while one is missing."""
        complete = len(self.approvals) >= self.approvals_needed
        return self.approvals[self.approvals_needed - 1] if complete else None

    @property
    def needs_approval(self) -> bool:
        """Whether nothing of the month may be sent until a person approves it."""
        return bool(self.findings) and self.approval is None


def read_review(connection: Connection, month: Month) -> Review | None:
    """Return the month's review, or None when its drafts were never reviewed.

    Raises:
        IntegrityError: when it was altered by hand, and cannot be read.
    """
    row = connection.execute(sa.select(reviews).where(reviews.c.month == str(month))).first()
    if row is None:
        return None
    try:
        findings = orjson.loads(row.findings)
    except ValueError:
        raise altered_row(f"What the review of {month} found", "ledger_reviews") from None
    approvals: dict[str, Decision] = {}
    for each in read_decisions(connection, month):
        person = person_of(each.actor)
        # One that is nobody's by name may be of a person who approved by name as well.
        if not person and row.approvals_needed > 1:
            continue
        if each.kind in _APPROVALS and each.content_hash == row.drafts_hash:
            approvals.setdefault(person, each)
    return Review(
        row.month,
        row.drafts_hash,
        findings,
        row.reviewed_at,
        row.approvals_needed,
        list(approvals.values()),
    )


def person_of(actor: str) -> str:
    """Return who an actor is, by name: empty where it is nobody's, as of the one secret for all.

    `anna@host` of the command line, `anna from 10.0.0.7` of the server and `Anna@example.com from ...` are
    one person: two names too many cost a second signature, one too few would be a way around it.
    """
    who, on_server, _ = actor.rpartition(" from ")
    if not on_server:
        who = actor
    elif who == _NOBODY or who.startswith("session "):
        return ""
    return who.partition("@")[0].casefold()


def write_review(
    connection: Connection,
    month: Month,
    *,
    drafts_hash: str,
    findings: Sequence[Mapping[str, Any]],
    now: datetime,
    approvals_needed: int = 1,
) -> None:
    """Keep a review in place of the month's earlier one, in the connection's transaction."""
    found = orjson.dumps(list(findings)).decode()
    row = {"month": str(month), "drafts_hash": drafts_hash, "findings": found, "reviewed_at": now}
    put_row(connection, reviews, {**row, "approvals_needed": approvals_needed})


def findings_told(connection: Connection, code: str) -> list[tuple[datetime, Mapping[str, Any]]]:
    """Return when findings of a kind were made, and their data, of months whose billing started after all."""
    started = sa.exists().where(months.c.month == reviews.c.month, months.c.billing_started_at.is_not(None))
    query = sa.select(reviews.c.reviewed_at, reviews.c.findings).where(
        reviews.c.findings.contains(f'"{code}"'), started
    )
    return [
        (at, finding["data"])
        for at, findings in connection.execute(query)
        for finding in orjson.loads(findings)
        if finding["code"] == code
    ]


def read_decisions(connection: Connection, month: Month) -> list[Decision]:
    """Return all decisions about the month and its users, oldest first."""
    query = sa.select(*columns_of(decisions, Decision)).where(decisions.c.month == str(month))
    return read_as(connection, Decision, query.order_by(decisions.c.id))


def write_decision(connection: Connection, decision: Decision, actor: Actor) -> None:
    """Append a decision with its audit entry, in the connection's transaction."""
    write_decisions(connection, [decision])
    entry = {"month": decision.month, "user_id": decision.user_id}
    write_audit(connection, actor, decision.at, {**entry, "action": decision.kind, "detail": decision.reason})


def write_decisions(connection: Connection, decided: Sequence[Decision]) -> None:
    """Append decisions about bills whose changes have audit entries of their own."""
    if decided:
        connection.execute(decisions.insert(), [asdict(each) for each in decided])


RELEASABLE = frozenset({Reason.HELD_BY_PERSON, Reason.NOT_PLAUSIBLE, Reason.ALREADY_GIVEN_BACK})
"""Reasons of held bills that a person's word alone sends on."""

_NEVER = (-1, "")


class PeoplesHolds:
    """What people decided, oldest first, about each bill; a release counts for the released content alone."""

    def __init__(self, found: Iterable[Decision]) -> None:
        self._held: dict[str | None, tuple[int, str]] = {}
        self._released_at: dict[tuple[str | None, str | None], int] = {}
        for place, each in enumerate(found):
            if each.kind is DecisionKind.HELD:
                self._held[each.user_id] = place, each.reason
            elif each.kind is DecisionKind.RELEASED and each.user_id is None:
                self._held.pop(None, None)
            elif each.kind is DecisionKind.RELEASED:
                self._released_at[each.user_id, each.content_hash] = place

    @property
    def everybody(self) -> bool:
        """Whether everybody's bill is held."""
        return None in self._held

    @property
    def users(self) -> frozenset[str]:
        """The users whom a person once held by name."""
        return frozenset(user for user in self._held if user is not None)

    def held_because(self, user_id: str, lines_hash: str) -> str | None:
        """Return the reason for which a person holds a bill of this content; None when nobody does."""
        held_at, reason = max(self._held.get(None, _NEVER), self._held.get(user_id, _NEVER))
        return reason if held_at > self._released_at.get((user_id, lines_hash), -1) else None

    def held_by_name(self, user_id: str, lines_hash: str) -> str | None:
        """Return the reason for which a person holds this user's bill alone; None when nobody does."""
        held_at, reason = self._held.get(user_id, _NEVER)
        return reason if held_at > self._released_at.get((user_id, lines_hash), -1) else None

    def is_released(self, user_id: str, lines_hash: str) -> bool:
        """Return whether a person released a bill of this very content, and did not hold it by name again."""
        return self._released_at.get((user_id, lines_hash), -1) > self._held.get(user_id, _NEVER)[0]


@dataclass(frozen=True, slots=True)
class WaitingBill:
    """What a hold or a release must know of a bill."""

    id: int
    user_id: str
    generation: int
    state: State
    reason: Reason | None
    currency: str
    total_cents: int
    lines_hash: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a bill waits, or None where it is released, with what is special about it in words."""

    bill: WaitingBill
    reason: Reason | None
    message: str | None


def read_waiting(
    connection: Connection, month: Month, *conditions: sa.ColumnElement[bool]
) -> list[WaitingBill]:
    """Read each user's latest bill of the month that meets the conditions, in the order of their ids."""
    query = sa.select(*columns_of(invoices, WaitingBill)).where(latest_generation(month), *conditions)
    return read_as(connection, WaitingBill, query.order_by(invoices.c.id))


def write_holds(
    connection: Connection, month: Month, holds: Sequence[Hold], actor: Actor, now: datetime
) -> None:
    """Hold bills, or let those be sent whose hold has no reason, each with its audit entry."""
    if not holds:
        return
    changed: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in ("state", "reason", "message")}
    update = invoices.update().where(invoices.c.id == sa.bindparam("bill_id"))
    updates, entries = [], []
    for each in holds:
        state = State.HELD if each.reason else State.PLANNED
        message = each.message if each.reason else None
        change = {"new_state": state, "new_reason": each.reason, "new_message": message}
        updates.append({"bill_id": each.bill.id, **change})
        entries.append(
            {
                "month": str(month),
                "user_id": each.bill.user_id,
                "generation": each.bill.generation,
                "action": "held" if each.reason else "released",
                "from_state": each.bill.state,
                "to_state": state,
                "detail": each.message,
            }
        )
    connection.execute(update.values(run_id=actor.run_id, updated_at=now, **changed), updates)
    write_audit(connection, actor, now, *entries)
