"""The numbers of the whole ledger that metrics show, each by one grouped query."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.latencies import Latencies
from spell_billing.core.month import Month
from spell_billing.ledger.mails import GivenUp
from spell_billing.ledger.message_tables import SENT_ALERTS, outbox
from spell_billing.ledger.month_state import undone_months
from spell_billing.ledger.outbox import MAIL, is_waiting
from spell_billing.ledger.queries import read_months
from spell_billing.ledger.schema import events, runs
from spell_billing.ledger.standing import closed_months
from spell_billing.ledger.totals import MonthGroup, month_groups


@dataclass(frozen=True, slots=True)
class Mails:
    """Mail to users that did not go out: waiting, of these tried in vain before, and given up by reason."""

    waiting: int
    failing: int
    given_up: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """What one read of the ledger found.

    Attributes:
        bills: The latest bill of each user, of the latest months.
        last_billed: The latest month on record as billed, and when it was; None before the first.
        unbilled_months: Closed months from the first drafted one on that are not billed completely.
        runs: Drives of a month by how they ended.
        requests: To Stripe, by endpoint, of all runs on record.
        limited: Requests that Stripe answered with 429.
        alerts: Sent, by kind; one that went out on two channels counts twice.
        events_waiting: Stripe's events that are not handled yet.
        mails: To users.
    """

    bills: list[MonthGroup]
    last_billed: tuple[Month, datetime] | None
    unbilled_months: int
    runs: Mapping[str, int]
    requests: Mapping[str, Latencies]
    limited: int
    alerts: Mapping[str, int]
    events_waiting: int
    mails: Mails


def read_figures(
    connection: Connection, *, first: Month, latest_months: int, now: datetime | None = None
) -> Figures:
    """Read all figures.

    Args:
        connection: To the ledger; nothing is written.
        first: Months before it are never billed.
        latest_months: For so many months back, the present one included, bills are counted.
        now: The present, an aware datetime.
    """
    now = now or datetime.now(UTC)
    results, requests, limited = _runs(connection)
    records = read_months(connection)
    undone = undone_months(connection)
    billed = {
        Month.parse(record.month): record.billed_at
        for record in records
        if record.billed_at and Month.parse(record.month) not in undone
    }
    return Figures(
        bills=month_groups(connection, [Month.containing(now).plus(-ago) for ago in range(latest_months)]),
        last_billed=max(billed.items(), default=None),
        unbilled_months=sum(month not in billed for month in closed_months(records, first=first, now=now)),
        runs=results,
        requests=requests,
        limited=limited,
        alerts=_alerts(connection),
        events_waiting=_count(connection, events.c.event_id, events.c.handled_at.is_(None)),
        mails=_mails(connection),
    )


def _runs(connection: Connection) -> tuple[dict[str, int], dict[str, Latencies], int]:
    results: dict[str, int] = {}
    requests: dict[str, Latencies] = {}
    limited = 0
    for row in connection.execute(sa.select(runs.c.result, runs.c.limited, runs.c.requests)):
        results[row.result] = results.get(row.result, 0) + 1
        limited += row.limited
        for endpoint, content in orjson.loads(row.requests).items():
            requests.setdefault(endpoint, Latencies()).add(Latencies.from_json(content))
    return results, requests, limited


def _mails(connection: Connection) -> Mails:
    waiting = sa.and_(outbox.c.channel == MAIL, is_waiting())
    given_up = sa.and_(
        outbox.c.channel == MAIL, outbox.c.sent_at.is_(None), outbox.c.given_up_at.is_not(None)
    )
    reason = sa.case(
        *((outbox.c.error.startswith(each.value), each.value) for each in GivenUp), else_="unknown"
    )
    counted = connection.execute(sa.select(reason, sa.func.count()).where(given_up).group_by(sa.text("1")))
    return Mails(
        waiting=_count(connection, outbox.c.id, waiting),
        failing=_count(connection, outbox.c.id, sa.and_(waiting, outbox.c.tries > 0)),
        given_up={row[0]: row[1] for row in counted},
    )


def _count(connection: Connection, column: sa.Column[object], condition: sa.ColumnElement[bool]) -> int:
    return int(connection.scalar(sa.select(sa.func.count(column)).where(condition)) or 0)


def _alerts(connection: Connection) -> dict[str, int]:
    kinds = sa.select(outbox.c.kind, sa.func.count()).where(SENT_ALERTS).group_by(outbox.c.kind)
    return {row[0]: row[1] for row in connection.execute(kinds)}
