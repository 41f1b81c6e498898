"""Bills that wait although they could be sent: who held or released them, and the writes that do it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.queries import latest_generation
from spell_billing.ledger.reviews import Decision, DecisionKind
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import audit, invoices

RELEASABLE = frozenset({Reason.HELD_BY_PERSON, Reason.NOT_PLAUSIBLE})
"""Reasons of held bills that a person's word alone sends on."""

_ROWS_AT_ONCE = 5_000
_NEVER = (-1, "")


class PeoplesHolds:
    """What people's decisions say of each bill; a release counts for the content that was released alone.

    Args:
        found: All decisions about the month, oldest first.
    """

    def __init__(self, found: Iterable[Decision]) -> None:
        self._everybody = _NEVER
        self._held: dict[str, tuple[int, str]] = {}
        self._released_at: dict[tuple[str, str | None], int] = {}
        for place, each in enumerate(found):
            if each.kind is DecisionKind.HELD:
                if each.user_id is None:
                    self._everybody = place, each.reason
                else:
                    self._held[each.user_id] = place, each.reason
            elif each.kind is DecisionKind.RELEASED:
                if each.user_id is None:
                    self._everybody = _NEVER
                else:
                    self._released_at[each.user_id, each.content_hash] = place

    @property
    def everybody(self) -> bool:
        """Whether everybody's bill is held."""
        return self._everybody != _NEVER

    @property
    def users(self) -> frozenset[str]:
        """The users whom a person once held by name."""
        return frozenset(self._held)

    def held_because(self, user_id: str, lines_hash: str) -> str | None:
        """Return the reason for which a person holds a bill of this content; None when nobody does."""
        held_at, reason = self._newest(user_id)
        return reason if held_at > self._released_at.get((user_id, lines_hash), -1) else None

    def is_released(self, user_id: str, lines_hash: str) -> bool:
        """Return whether a person released a bill of exactly this content, and did not hold it again."""
        return self._released_at.get((user_id, lines_hash), -1) > self._newest(user_id)[0]

    def _newest(self, user_id: str) -> tuple[int, str]:
        return max(self._everybody, self._held.get(user_id, _NEVER))


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


_OF_BILL = ("id", "user_id", "generation", "state", "reason", "currency", "total_cents", "lines_hash")


def read_waiting(
    connection: Connection, month: Month, *conditions: sa.ColumnElement[bool]
) -> list[WaitingBill]:
    """Read each user's latest bill of the month that meets the conditions, in the order of their ids."""
    query = sa.select(*(invoices.c[name] for name in _OF_BILL)).where(latest_generation(month), *conditions)
    return [
        WaitingBill(
            row.id,
            row.user_id,
            row.generation,
            State(row.state),
            Reason(row.reason) if row.reason else None,
            row.currency,
            row.total_cents,
            row.lines_hash,
        )
        for row in connection.execute(query.order_by(invoices.c.id))
    ]


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a bill waits, with what is special about it in words."""

    bill: WaitingBill
    reason: Reason
    message: str | None


def write_holds(
    connection: Connection, month: Month, holds: Sequence[Hold], actor: Actor, now: datetime
) -> None:
    """Hold bills, each with its audit entry, in the connection's transaction."""
    changes = [(each.bill, State.HELD, each.reason, each.message) for each in holds]
    _write(connection, changes, _shared(month, "held", actor, now))


def write_releases(
    connection: Connection,
    month: Month,
    bills: Sequence[WaitingBill],
    actor: Actor,
    *,
    reason: str,
    now: datetime,
) -> None:
    """Let bills be sent, each with its audit entry, in the connection's transaction."""
    changes = [(bill, State.PLANNED, None, reason) for bill in bills]
    _write(connection, changes, _shared(month, "released", actor, now))


def drafts_hash(connection: Connection, month: Month) -> str:
    """Fingerprint what the latest bills charge whom: equal drafts give an equal hash, in any state."""
    bill = invoices.c
    parts = sa.cast(bill.lines_hash, sa.Text) + "|" + bill.currency + "|" + sa.cast(bill.total_cents, sa.Text)
    query = sa.select(parts + "|" + bill.user_id).where(latest_generation(month)).order_by(bill.id)
    digest = hashlib.sha256()
    rows = connection.execute(query.execution_options(yield_per=_ROWS_AT_ONCE)).scalars()
    for batch in rows.partitions():
        digest.update("\n".join(batch).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _shared(month: Month, action: str, actor: Actor, now: datetime) -> dict[str, Any]:
    return {"at": now, "actor": actor.name, "run_id": actor.run_id, "month": str(month), "action": action}


def _write(
    connection: Connection,
    changes: Sequence[tuple[WaitingBill, State, Reason | None, str | None]],
    shared: Mapping[str, Any],
) -> None:
    """Write changes of bills, and their audit entries with the columns that these share."""
    if not changes:
        return
    connection.execute(
        _UPDATE,
        [
            {
                "bill_id": bill.id,
                "new_state": state.value,
                "new_reason": reason.value if reason else None,
                "new_message": message if state is State.HELD else None,
                "run_id_now": shared["run_id"],
                "now": shared["at"],
            }
            for bill, state, reason, message in changes
        ],
    )
    connection.execute(
        audit.insert(),
        [
            {
                **shared,
                "user_id": bill.user_id,
                "generation": bill.generation,
                "from_state": bill.state.value,
                "to_state": state.value,
                "detail": message,
            }
            for bill, state, _, message in changes
        ],
    )


_UPDATE = (
    invoices.update()
    .where(invoices.c.id == sa.bindparam("bill_id"))
    .values(
        state=sa.bindparam("new_state"),
        reason=sa.bindparam("new_reason"),
        message=sa.bindparam("new_message"),
        run_id=sa.bindparam("run_id_now"),
        updated_at=sa.bindparam("now"),
    )
)
