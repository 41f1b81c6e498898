"""The record of each time that a month was driven to Stripe, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from spell_billing.core.latencies import Latencies
from spell_billing.core.month import Month
from spell_billing.ledger.schema import runs


class RunResult(StrEnum):
    """How a drive ended, and with it who acts next."""

    DONE = "done"
    """Every user of the month is invoiced or rightly skipped."""
    USERS_LEFT = "users_left"
    """All that could be billed is; the others wait for a person."""
    IN_REVIEW = "in_review"
    """Nothing was sent: the month waits for a person to approve its drafts."""
    UNFINISHED = "unfinished"
    """Some users are to be tried again: the next run takes them up by itself."""
    STOPPED = "stopped"
    """Nobody could be billed for now: Stripe, the network or the database did not answer."""
    REFUSED = "refused"
    """Nobody can be billed until a person acts: the key, a setting, the month's data."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One drive of a month.

    Attributes:
        run_id: Of the Dagster run; empty outside of one.
        month: As 2026-10.
        started_at: Aware, UTC; `ended_at` too.
        result: How it ended.
        invoiced: Users who got their invoice in this drive.
        unfinished: Users whose outcome at Stripe is unknown until the next drive.
        limited: Requests that Stripe answered with 429.
        requests: Number and durations of the requests, by endpoint (`POST /v1/invoices`), 429s included.
    """

    run_id: str
    month: str
    started_at: datetime
    ended_at: datetime
    result: RunResult
    invoiced: int = 0
    unfinished: int = 0
    limited: int = 0
    requests: Mapping[str, Latencies] = field(default_factory=dict)


def record_run(connection: Connection, record: RunRecord) -> None:
    """Write a record, in the connection's transaction."""
    connection.execute(
        runs.insert().values(
            run_id=record.run_id,
            month=record.month,
            started_at=record.started_at,
            ended_at=record.ended_at,
            result=record.result.value,
            invoiced=record.invoiced,
            unfinished=record.unfinished,
            limited=record.limited,
            requests=orjson.dumps({name: each.as_json() for name, each in record.requests.items()}).decode(),
        )
    )


def runs_of_month(connection: Connection, month: Month, limit: int) -> list[RunRecord]:
    """Return the month's latest records, the newest first."""
    query = sa.select(runs).where(runs.c.month == str(month)).order_by(runs.c.id.desc()).limit(limit)
    return [_record(row) for row in connection.execute(query)]


def _record(row: Row[tuple[object, ...]]) -> RunRecord:
    return RunRecord(
        run_id=row.run_id,
        month=row.month,
        started_at=row.started_at,
        ended_at=row.ended_at,
        result=RunResult(row.result),
        invoiced=row.invoiced,
        unfinished=row.unfinished,
        limited=row.limited,
        requests={name: Latencies.from_json(each) for name, each in orjson.loads(row.requests).items()},
    )
