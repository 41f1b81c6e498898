"""The outbox: what is to be sent, each message once on its channel, and what became of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, reduce
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from spell_billing.core.month import Month
from spell_billing.ledger.column_types import columns_of, insert_new
from spell_billing.ledger.schema import invoices, outbox

MAIL = "mail"
"""The channel of mail to users."""
ALERTS = "alerts"
"""The channel of alerts that are still to be put on each of ALERT_URLS."""
NOT_INVOICED = "users_not_invoiced"
"""The kind of alerts about users who wait for a person: their keys are `kind:bill:state:reason`."""
EVENT = "event:"
"""Begins the channels of events for the platform; the rest names one of EVENT_URLS."""

Said = Mapping[str, sa.ColumnElement[str] | str]
"""What messages made by the database say: texts, the same for all or of the row's columns."""

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Message:
    """A message on one channel: a row of `ledger_outbox`. The last three are the outbox's to say."""

    key: str
    channel: str
    kind: str
    payload: dict[str, Any]
    month: str | None = None
    user_id: str | None = None
    id: int = 0
    tries: int = 0
    created_at: datetime = _NEVER


def put(
    connection: Connection, messages: Iterable[Message], *, sent: bool = False, now: datetime | None = None
) -> int:
    """Put messages that are not in the outbox into it, to be sent or as sent, and return how many."""
    state = _state(now or datetime.now(UTC), sent=sent)
    rows = [
        {name: getattr(each, name) for name in ("key", "channel", "kind", "month", "user_id")}
        | {"payload": orjson.dumps(each.payload).decode(), **state}
        for each in messages
    ]
    return insert_new(connection, outbox, rows)


def put_selected(
    connection: Connection,
    about: sa.FromClause,
    which: sa.ColumnElement[bool],
    said: Said,
    now: datetime,
    *,
    sent: bool = False,
) -> int:
    """Put messages that are not in the outbox into it by one statement, and return how many.

    There is one for each row of a table (`about`) that meets a condition (`which`). `said` has their key,
    channel, kind and payload; month and user are the row's.
    """
    texts = {name: words(value) for name, value in said.items()}
    state = {name: sa.literal(value, outbox.c[name].type) for name, value in _state(now, sent=sent).items()}
    values = {**texts, "month": about.c.month, "user_id": about.c.user_id, **state}
    new = sa.and_(which, ~is_put(texts["key"], texts["channel"]))
    chosen = sa.select(*values.values()).where(new).order_by(about.c.month, texts["key"])
    insert = outbox.insert().from_select([*values], chosen)
    return connection.execute(insert.execution_options(preserve_rowcount=True)).rowcount


def _state(now: datetime, *, sent: bool) -> dict[str, Any]:
    return {"created_at": now, "next_try_at": now, "tries": 0, "sent_at": now if sent else None}


def due(
    connection: Connection,
    channels: Iterable[str],
    now: datetime,
    which: sa.ColumnElement[bool] | None = None,
    *,
    limit: int | None = None,
) -> list[Message]:
    """Return messages whose turn has come, all or those of a condition, the longest due first."""
    query = sa.select(*columns_of(outbox, Message)).where(is_due(channels, now))
    query = query if which is None else query.where(which)
    rows = connection.execute(query.order_by(outbox.c.next_try_at, outbox.c.id).limit(limit)).mappings()
    return [Message(**{**row, "payload": orjson.loads(row["payload"])}) for row in rows]


def first_due(connection: Connection, channel: str, now: datetime, *, limit: int) -> list[Message]:
    """Return messages of a channel whose turn has come, and behind none of the same user; in their order."""
    place = sa.func.row_number().over(partition_by=outbox.c.user_id, order_by=outbox.c.id).label("place")
    waiting = (
        sa.select(outbox.c.id, outbox.c.next_try_at, place)
        .where(outbox.c.channel == channel, is_waiting())
        .subquery()
    )
    # Not in one statement: without statistics PostgreSQL would look through all of them for each row.
    first = sa.select(waiting.c.id).where(waiting.c.place == 1, waiting.c.next_try_at <= now)
    ids = connection.scalars(first.order_by(waiting.c.id).limit(limit)).all()
    return sorted(due(connection, [channel], now, outbox.c.id.in_(ids)), key=lambda each: each.id)


def is_due(channels: Iterable[str], now: datetime) -> sa.ColumnElement[bool]:
    """Return the condition for messages whose turn has come."""
    return sa.and_(outbox.c.channel.in_(list(channels)), is_waiting(), outbox.c.next_try_at <= now)


def is_waiting() -> sa.ColumnElement[bool]:
    """Return the condition for messages that are neither sent nor given up."""
    return sa.and_(outbox.c.sent_at.is_(None), outbox.c.given_up_at.is_(None))


def count_waiting(connection: Connection, kind: str) -> int:
    """Return how many alerts of a kind wait for some channel."""
    count = sa.select(sa.func.count(outbox.c.key.distinct()))
    return connection.scalar(count.where(outbox.c.kind == kind, outbox.c.channel != MAIL, is_waiting())) or 0


def is_put(key: sa.ColumnElement[str], channel: sa.ColumnElement[str] | str) -> sa.ColumnElement[bool]:
    """Return the condition that a message is in the outbox."""
    return sa.exists().where(outbox.c.key == key, outbox.c.channel == channel)


def follow_drafts(connection: Connection, month: Month) -> None:
    """Give what was alerted on of a month's users the ids of the drafts that took their bills' place.

    Who has no bill any more is forgotten.
    """
    which = sa.and_(outbox.c.channel == ALERTS, outbox.c.kind == NOT_INVOICED, outbox.c.month == str(month))
    which &= outbox.c.user_id.is_not(None)
    found = connection.execute(sa.select(outbox.c.id, outbox.c.key, outbox.c.user_id).where(which)).all()
    if not found:
        return
    users = sa.select(invoices.c.user_id, invoices.c.id).where(invoices.c.month == str(month))
    bills = {row.user_id: row.id for row in connection.execute(users)}
    # An id may be another bill's now: no key may be one that is still to be replaced.
    connection.execute(outbox.update().where(which).values(key=words("replaced:", outbox.c.id)))
    keys = [
        {"message": each.id, "new": f"{NOT_INVOICED}:{bills[each.user_id]}:{each.key.split(':', 2)[2]}"}
        for each in found
        if each.user_id in bills
    ]
    if keys:
        one = outbox.update().where(outbox.c.id == sa.bindparam("message"))
        connection.execute(one.values(key=sa.bindparam("new")), keys)
    connection.execute(outbox.delete().where(which, outbox.c.key.startswith("replaced:")))


def words(*parts: sa.ColumnElement[Any] | str) -> sa.ColumnElement[str]:
    """Join columns and words into a text."""
    texts = [sa.literal(part, sa.Text) if isinstance(part, str) else sa.cast(part, sa.Text) for part in parts]
    return reduce(sa.ColumnElement.concat, texts)


def is_message(message: Message) -> sa.ColumnElement[bool]:
    """Return the condition for one message."""
    return outbox.c.id == message.id


def pause(tries: int) -> timedelta:
    """Return how long to wait after this many failed tries: a minute, doubled each time, up to two hours."""
    return min(timedelta(minutes=1 << min(tries - 1, 20)), timedelta(hours=2))


def mark_sent(connection: Connection, message: Message, now: datetime) -> None:
    """Record that the channel took a message."""
    update(connection, is_message(message), sent_at=now, tries=outbox.c.tries + 1, error=None)


def mark_tried(
    connection: Connection, which: sa.ColumnElement[bool], error: str, next_try_at: datetime
) -> None:
    """Record a failed try."""
    update(connection, which, tries=outbox.c.tries + 1, error=error, next_try_at=next_try_at)


def is_failing(connection: Connection, channel: str) -> bool:
    """Return whether a message of a channel has failed and still waits."""
    failing = sa.select(outbox.c.id).where(outbox.c.channel == channel, is_waiting(), outbox.c.tries > 0)
    return connection.scalar(failing.limit(1)) is not None


def give_up_older(connection: Connection, channel: str, than: datetime, now: datetime) -> int:
    """Give up what waits on a channel and was put there up to a time; return how many."""
    which = sa.and_(outbox.c.channel == channel, is_waiting(), outbox.c.created_at <= than)
    return connection.execute(outbox.update().where(which).values(given_up_at=now)).rowcount


def update(connection: Connection, which: sa.ColumnElement[bool], **values: Any) -> None:
    """Change rows; `error` holds no address and no secret."""
    connection.execute(outbox.update().where(which).values(**values))


@dataclass(frozen=True)
class Outbox:
    """The outbox for who delivers from it, each step in a transaction of its own.

    `reader` is the same engine as `writer`, for reading only: a look takes no write lock.
    """

    writer: Engine
    reader: Engine

    def put(self, messages: Sequence[Message]) -> None:
        """Put messages into the outbox that are not in it yet."""
        same = outbox.c.key.in_({each.key for each in messages})
        with self.reader.connect() as connection:
            known = {*connection.execute(sa.select(outbox.c.key, outbox.c.channel).where(same))}
        new = [each for each in messages if (each.key, each.channel) not in known]
        if new:
            with self.writer.begin() as connection:
                put(connection, new)

    def due(self, channels: Iterable[str], keys: Iterable[str], kind: str | None) -> list[Message]:
        """Return messages of some keys or one kind whose turn has come, the longest due first."""
        which = outbox.c.key.in_(list(keys)) | (outbox.c.kind == kind)
        with self.reader.connect() as connection:
            return due(connection, channels, datetime.now(UTC), which)

    def last_sent(self, channel: str) -> datetime | None:
        """Return when a channel last took a message; None when it never did."""
        query = sa.select(sa.func.max(outbox.c.sent_at)).where(outbox.c.channel == channel)
        with self.reader.connect() as connection:
            found: datetime | None = connection.scalar(query)
            return found

    def record(self, message: Message, problem: str | None) -> None:
        """Record that a message went out, or what was wrong; then it is due again at once."""
        now = datetime.now(UTC)
        with self.writer.begin() as connection:
            if problem is None:
                mark_sent(connection, message, now)
            else:
                mark_tried(connection, is_message(message), problem, now)


@cache
def in_memory() -> Outbox:
    """Return this process's own outbox, for alerts that the ledger cannot keep because it does not answer."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
    outbox.create(engine)
    return Outbox(engine, engine)
