"""Thresholds of spend limits that users reached: told once, by an entry in the audit trail.

The feed makes an event of the entry, and the mail to users is made of it as well.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Self

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.month import Month
from spell_billing.ledger.audit_trail import write_audit
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.schema import audit

THRESHOLD = "threshold_reached"
"""The action in the audit trail, and the kind of mail; the entry's detail is a `Reached` as JSON."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How much of a user's spend limit was used when it was told, in minor units of `currency`."""

    percent: int
    so_far_cents: int
    limit_cents: int
    currency: str

    @classmethod
    def parse(cls, detail: str) -> Self:
        """Read an entry's detail."""
        return cls(**orjson.loads(detail))


def reached_by_user(connection: Connection, month: Month) -> dict[str, Reached]:
    """Return the threshold of which each user was told last in a month."""
    return {user_id: told[-1] for user_id, told in told_by_user(connection, month).items()}


def told_by_user(connection: Connection, month: Month) -> dict[str, list[Reached]]:
    """Return all thresholds of which each user was told in a month, in their order."""
    query = sa.select(audit.c.user_id, audit.c.detail).where(
        audit.c.month == str(month), audit.c.action == THRESHOLD
    )
    found: defaultdict[str, list[Reached]] = defaultdict(list)
    for user_id, detail in connection.execute(query.order_by(audit.c.id)):
        found[user_id].append(Reached.parse(detail))
    return dict(found)


def note_reached(connection: Connection, month: Month, reached: Mapping[str, Reached], now: datetime) -> None:
    """Write an entry for each user. One process at a time may look what was told, and call this."""
    entries = [
        {
            "month": str(month),
            "user_id": user_id,
            "action": THRESHOLD,
            "detail": orjson.dumps(asdict(each)).decode(),
        }
        for user_id, each in sorted(reached.items())
    ]
    write_audit(connection, Actor("spend_alerts"), now, *entries)
