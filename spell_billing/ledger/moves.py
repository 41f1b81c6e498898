"""Usage that moved from one user to another, as people recorded it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.browsing import has_bill
from spell_billing.ledger.queries import require_no_credit_under_way
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import moves


@dataclass(frozen=True, slots=True)
class Heirs:
    """Who took over whose usage. Of a user's moves the newest counts; one to the user itself undoes it.

    A move back is a move of its own, in place of the one before.
    """

    heirs: dict[str, str]

    @classmethod
    def of(cls, recorded: Iterable[tuple[str, str]]) -> "Heirs":
        """Follow moves in the order in which they were recorded."""
        heirs: dict[str, str] = {}
        for from_user, to_user in recorded:
            heirs.pop(from_user, None)
            if from_user == to_user:
                continue
            if _last(heirs, to_user) == from_user:
                del heirs[to_user]
            heirs[from_user] = to_user
        return cls(heirs)

    def heir_of(self, user_id: str) -> str:
        """Return the user that a user's usage moved to in the end; without a move, the user itself."""
        return _last(self.heirs, user_id)

    def together_with(self, user_id: str) -> list[str]:
        """Return all users whose usage moved to the same one in the end, the user among them."""
        heir = self.heir_of(user_id)
        return sorted({heir, user_id, *(each for each in self.heirs if self.heir_of(each) == heir)})


def _last(heirs: dict[str, str], user_id: str) -> str:
    while user_id in heirs:
        user_id = heirs[user_id]
    return user_id


def read_heirs(connection: Connection) -> Heirs:
    """Read who took over whose usage."""
    rows = connection.execute(sa.select(moves.c.from_user, moves.c.to_user).order_by(moves.c.id)).all()
    return Heirs.of((from_user, to_user) for from_user, to_user in rows)


def record_undo(connection: Connection, user_id: str, *, reason: str, actor: Actor, now: datetime) -> str:
    """Record that a user's usage did not move after all; return to whom it was said to have moved.

    Raises:
        LedgerError: when no move of the user is recorded, or a bill that uses a credit is about to be sent.
    """
    heirs = read_heirs(connection)
    to_user = heirs.heirs.get(user_id)
    if to_user is None:
        raise LedgerError(
            f"No move of user {user_id} is recorded that counts.",
            remedy="Name the user whose usage was said to have moved: --from.",
        )
    require_no_credit_under_way(connection, heirs.together_with(user_id))
    _write_move(connection, user_id, user_id, reason=reason, actor=actor, now=now)
    return to_user


def record_move(
    connection: Connection,
    from_user: str,
    to_user: str,
    *,
    reason: str,
    actor: Actor,
    has_usage: Callable[[str], bool],
    now: datetime,
) -> bool:
    """Record that usage moved, in the connection's transaction; return False when that is recorded already.

    `has_usage` tells whether a user without a bill has rows at the platform.

    Raises:
        LedgerError: for one and the same user, one that has neither a bill nor usage, or while a bill that
            uses a credit is about to be sent.
    """
    if from_user == to_user:
        raise LedgerError(
            f"User {from_user} cannot move to itself.", remedy="Name two different users: --from and --to."
        )
    for user_id in (from_user, to_user):
        if not has_bill(connection, user_id) and not has_usage(user_id):
            raise LedgerError(
                f"User {user_id} has no bill and no usage.",
                remedy="Check the id: it must be written as in usage_counters.",
            )
    heirs = read_heirs(connection)
    if heirs.heirs.get(from_user) == to_user:
        return False
    require_no_credit_under_way(connection, heirs.together_with(from_user))
    _write_move(connection, from_user, to_user, reason=reason, actor=actor, now=now)
    return True


def _write_move(
    connection: Connection, from_user: str, to_user: str, *, reason: str, actor: Actor, now: datetime
) -> None:
    connection.execute(
        moves.insert().values(at=now, actor=actor.name, from_user=from_user, to_user=to_user, reason=reason)
    )
    entry = {"month": str(Month.containing(now)), "action": "user_moved"}
    entry["detail"] = f"{from_user} -> {to_user}: {reason}"
    users = dict.fromkeys((from_user, to_user))
    write_audit(connection, actor, now, *({**entry, "user_id": each} for each in users))
