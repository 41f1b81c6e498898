"""The record of each billing run of a month, and how it ended."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from spell_billing.core.latencies import Latencies
from spell_billing.core.month import Month
from spell_billing.ledger.column_types import columns_of
from spell_billing.ledger.schema import runs


class RunResult(StrEnum):
    """How a billing run ended, and so who acts next."""

    DONE = "done"
    """Every user of the month is invoiced or rightly skipped."""
    USERS_LEFT = "users_left"
    """All that could be billed is; the others wait for a person."""
    IN_REVIEW = "in_review"
    """Nothing was sent: the month waits for a person to approve its drafts."""
    UNFINISHED = "unfinished"
    """Some users are to be retried: the next run takes them up by itself."""
    STOPPED = "stopped"
    """Nobody could be billed for now: Stripe, the network or the database did not answer."""
    REFUSED = "refused"
    """Nobody can be billed until a person acts: the key, a setting, the month's data."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One billing run of a month. `run_id` is Dagster's, empty outside of it; times are aware."""

    run_id: str
    month: str
    started_at: datetime
    ended_at: datetime
    result: RunResult
    invoiced: int = 0
    """Users who got their invoice in this run."""
    unfinished: int = 0
    """Users whose outcome at Stripe is unknown until the next run."""
    limited: int = 0
    """Requests that Stripe answered with 429."""
    requests: Mapping[str, Latencies] = field(default_factory=dict)
    """Number and durations of the requests, by endpoint (`POST /v1/invoices`), 429s included."""


def record_run(connection: Connection, record: RunRecord) -> None:
    """Write a record, in the connection's transaction."""
    requests = orjson.dumps({name: each.as_json() for name, each in record.requests.items()}).decode()
    connection.execute(runs.insert().values({**asdict(record), "requests": requests}))


def runs_of_month(connection: Connection, month: Month, limit: int = 20) -> list[RunRecord]:
    """Return the month's latest records, the newest first."""
    query = sa.select(*columns_of(runs, RunRecord)).where(runs.c.month == str(month))
    found = []
    for row in connection.execute(query.order_by(runs.c.id.desc()).limit(limit)).mappings():
        requests = {name: Latencies.from_json(each) for name, each in orjson.loads(row["requests"]).items()}
        found.append(RunRecord(**{**row, "result": RunResult(row["result"]), "requests": requests}))
    return found
