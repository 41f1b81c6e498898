"""How often a month was tried recently, and when it may be retried."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import dagster as dg

from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.runs import RunResult
from spell_billing.orchestration.billing_runs import last_runs, problem_of

PAUSES = (timedelta(minutes=15), timedelta(hours=1), timedelta(hours=4), timedelta(hours=12))
"""After the first try that ended early, the second, and so on; after one more a person is told."""

_LOOK_AT = 20
_AGAIN = frozenset({RunResult.UNFINISHED, RunResult.STOPPED})


@dataclass(frozen=True, slots=True)
class Try:
    """A run of a month that has ended.

    Attributes:
        run_id: Dagster's run.
        ended_at: When it ended.
        again: Whether the next run may go further although no person did anything.
    """

    run_id: str
    ended_at: datetime
    again: bool


@dataclass(frozen=True, slots=True)
class Tries:
    """The tries since the month last waited for a person, or was done; the newest first."""

    streak: tuple[Try, ...]

    @property
    def exhausted(self) -> bool:
        """Whether it was tried often enough."""
        return len(self.streak) > len(PAUSES)

    @property
    def next_at(self) -> datetime | None:
        """When it is tried again by itself; None when it is not."""
        if not self.streak or self.exhausted:
            return None
        return self.streak[0].ended_at + PAUSES[len(self.streak) - 1]


def read_tries(ledger: Ledger, instance: dg.DagsterInstance, month: Month) -> Tries:
    """Read a month's tries: from the ledger where the run wrote its result, else from Dagster.

    A run that died wrote none, and one that failed before it came to Stripe neither.
    """
    records = ledger.runs(month, limit=_LOOK_AT)
    tries = [Try(record.run_id, record.ended_at, record.result in _AGAIN) for record in records]
    tries += _unrecorded(instance, month, {record.run_id for record in records})
    return newest_streak(tries)


def newest_streak(tries: Sequence[Try]) -> Tries:
    """Take the newest tries up to the first after which a person was to act, or that was the last needed."""
    ordered = sorted(tries, key=lambda each: each.ended_at, reverse=True)
    return Tries(tuple(takewhile(lambda each: each.again, ordered)))


def _unrecorded(instance: dg.DagsterInstance, month: Month, recorded: set[str]) -> list[Try]:
    found = []
    for record in last_runs(instance, month, _LOOK_AT):
        run = record.dagster_run
        if run.run_id in recorded or record.end_time is None or run.tags.get("dagster/will_retry") == "true":
            continue
        if run.status in {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}:
            again = problem_of(instance, run.run_id).transient
            found.append(Try(run.run_id, datetime.fromtimestamp(record.end_time, UTC), again))
    return found
