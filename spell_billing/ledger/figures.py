"""The numbers of the whole ledger that metrics show, each by one grouped query."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.latencies import Latencies
from spell_billing.core.month import Month
from spell_billing.ledger.events import count_waiting
from spell_billing.ledger.grants import Liability, read_liability
from spell_billing.ledger.mails import GivenUp
from spell_billing.ledger.month_state import closed_months, undone_months
from spell_billing.ledger.outbox import MAIL, is_waiting
from spell_billing.ledger.queries import read_months
from spell_billing.ledger.schema import SENT_ALERTS, outbox, runs
from spell_billing.ledger.totals import MonthGroup, month_groups


@dataclass(frozen=True, slots=True)
class Figures:
    """What one read of the ledger found."""

    bills: list[MonthGroup]
    """The latest bill of each user, of the latest months."""
    last_billed: tuple[Month, datetime] | None
    """The latest month on record as billed, and when it was; None before the first."""
    unbilled_months: int
    """Closed months from the first drafted one on that are not billed completely."""
    runs: Mapping[str, int]
    """Billing runs by how they ended."""
    requests: Mapping[str, Latencies]
    """To Stripe, by endpoint, of all runs on record."""
    limited: int
    """Requests that Stripe answered with 429."""
    alerts: Mapping[str, int]
    """Sent, by kind; one that went out on two channels counts twice."""
    events_waiting: int
    """Stripe's events that are not handled yet."""
    mails_waiting: int
    """To be sent to users."""
    mails_failing: int
    """Of these, failed before."""
    mails_given_up: Mapping[str, int]
    """By reason."""
    prepaid: list[Liability]
    """What is left of grants, by currency."""


def read_figures(
    connection: Connection, *, first: Month, latest_months: int, now: datetime | None = None
) -> Figures:
    """Read all figures; months before `first` are never billed.

    Bills are counted for the latest months, the present one included. `now` is aware, by default the present.
    """
    now = now or datetime.now(UTC)
    results, requests, limited = _runs(connection)
    records, undone = read_months(connection), undone_months(connection)
    billed = {
        Month.parse(record.month): record.billed_at
        for record in records
        if record.billed_at and Month.parse(record.month) not in undone
    }
    tried = sa.func.coalesce(sa.func.sum(sa.case((outbox.c.tries > 0, 1), else_=0)), 0)
    unsent = sa.select(sa.func.count(), tried).where(outbox.c.channel == MAIL, is_waiting())
    waiting, failing = connection.execute(unsent).one()
    alerts = sa.select(outbox.c.kind, sa.func.count()).where(sa.text(SENT_ALERTS)).group_by(outbox.c.kind)
    return Figures(
        bills=month_groups(connection, [Month.containing(now).plus(-ago) for ago in range(latest_months)]),
        last_billed=max(billed.items(), default=None),
        unbilled_months=sum(month not in billed for month in closed_months(records, first=first, now=now)),
        runs=results,
        requests=requests,
        limited=limited,
        alerts={row[0]: row[1] for row in connection.execute(alerts)},
        events_waiting=count_waiting(connection),
        mails_waiting=waiting,
        mails_failing=failing,
        mails_given_up=_mails_given_up(connection),
        prepaid=read_liability(connection),
    )


def _runs(connection: Connection) -> tuple[dict[str, int], dict[str, Latencies], int]:
    rows = connection.execute(sa.select(runs.c.result, runs.c.limited, runs.c.requests)).all()
    requests: dict[str, Latencies] = {}
    for row in rows:
        for endpoint, content in orjson.loads(row.requests).items():
            requests.setdefault(endpoint, Latencies()).add(Latencies.from_json(content))
    return Counter(row.result for row in rows), requests, sum(row.limited for row in rows)


def _mails_given_up(connection: Connection) -> dict[str, int]:
    reason = sa.case(
        *((outbox.c.error.startswith(each.value), each.value) for each in GivenUp), else_="unknown"
    )
    given_up = sa.select(reason, sa.func.count()).where(
        outbox.c.channel == MAIL, outbox.c.sent_at.is_(None), outbox.c.given_up_at.is_not(None)
    )
    return {row[0]: row[1] for row in connection.execute(given_up.group_by(sa.text("1")))}
