"""Which alerts went out on which channels."""

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Engine

from spell_billing.ledger.message_tables import alerts


@dataclass(frozen=True)
class AlertLog:
    """The table `ledger_alerts`.

    Attributes:
        writer: The ledger's engine.
        reader: The same, for reading only.
    """

    writer: Engine
    reader: Engine

    def channels_of(self, key: str) -> frozenset[str]:
        """Return the channels that an alert went out on."""
        with self.reader.connect() as connection:
            return frozenset(connection.scalars(sa.select(alerts.c.channel).where(alerts.c.key == key)))

    def last_sent(self, channel: str) -> datetime | None:
        """Say when a channel last took an alert; None when it never did."""
        query = sa.select(sa.func.max(alerts.c.sent_at)).where(alerts.c.channel == channel)
        with self.reader.connect() as connection:
            found: datetime | None = connection.scalar(query)
            return found

    def record(self, *, key: str, channel: str, kind: str, month: str | None, text: str) -> None:
        """Note that an alert went out on a channel; a second note of the same changes nothing."""
        insert = sqlite.insert if self.writer.dialect.name == "sqlite" else postgresql.insert
        row = {"key": key, "channel": channel, "kind": kind, "month": month, "text": text}
        with self.writer.begin() as connection:
            connection.execute(
                insert(alerts).values(**row, sent_at=datetime.now(UTC)).on_conflict_do_nothing()
            )
