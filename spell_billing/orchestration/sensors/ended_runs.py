"""Billing runs that have ended since the last tick, and the cursor that says how far a sensor has read.

Dagster's own run status sensor moves its cursor even when the sensor raises; this one is moved by the sensor.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import dagster as dg

from spell_billing.orchestration.billing_runs import is_billing

RUNS_PER_TICK = 50
"""Of each kind; those that are left come with the next tick."""

FIRST_LOOK_BACK = timedelta(hours=24)
"""A sensor that has never ticked begins here: what failed while it was being deployed is not lost, and an
instance with a long history does not alert on all of it."""

OVERLAP = timedelta(seconds=60)
"""Events this young are read again: one with a smaller id may appear after one with a larger. The alert's key
keeps it from going out twice."""

Kind = Literal[
    dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED, dg.DagsterEventType.RUN_SUCCESS
]


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A billing run that has ended."""

    kind: Kind
    storage_id: int
    at: datetime
    run: dg.DagsterRun


def first_tick(context: dg.SensorEvaluationContext, now: datetime) -> dg.SensorResult | None:
    """Return the result of a sensor's first tick; None when it has ticked before.

    It only says where to begin. If it also sent alerts, one that does not go out would fail it, and the next
    tick would be the first again and begin later.
    """
    if context.cursor is not None:
        return None
    since = (now - FIRST_LOOK_BACK).isoformat()
    cursor = json.dumps({"since": since, "ids": {}})
    return dg.SensorResult(skip_reason=f"First tick: begins with {since}.", cursor=cursor)


class EndedRuns:
    """Reads ended runs for one tick, oldest first.

    Args:
        context: The sensor's tick, not its first.
        kinds: The events that the sensor reacts to.
        now: An aware datetime.

    Attributes:
        since: Since when the sensor watches.
    """

    def __init__(self, context: dg.SensorEvaluationContext, kinds: Iterable[Kind], now: datetime) -> None:
        self._instance = context.instance
        origin = context.code_location_origin
        self._location = origin.location_name if origin is not None else None
        self._kinds = tuple(kinds)
        self._now = now
        before = json.loads(context.cursor or "{}")
        self.since = datetime.fromisoformat(before["since"])
        # By kind, the storage id of the last event that is done with.
        self._ids: dict[str, int] = before["ids"]
        self._held: set[int] = set()

    def __iter__(self) -> Iterator[EndedRun]:
        for kind in self._kinds:
            records = self._read(kind)
            run_ids = sorted({record.run_id for record in records})
            found = self._instance.get_runs(dg.RunsFilter(run_ids=run_ids)) if run_ids else []
            runs = {run.run_id: run for run in found if is_billing(run, self._location)}
            done = True
            for record in records:
                at = datetime.fromtimestamp(record.timestamp, UTC)
                if record.run_id in runs:
                    yield EndedRun(kind, record.storage_id, at, runs[record.run_id])
                done = done and record.storage_id not in self._held and at <= self._now - OVERLAP
                if done:
                    self._ids[kind.name] = record.storage_id

    def hold(self, ended: EndedRun) -> None:
        """Have a run read again by the next tick: what becomes of it is not known yet."""
        self._held.add(ended.storage_id)

    @property
    def cursor(self) -> str:
        """The cursor to leave when everything that was read is done with."""
        return json.dumps({"since": self.since.isoformat(), "ids": self._ids})

    def _read(self, kind: Kind) -> Sequence[dg.EventLogRecord]:
        after_id = self._ids.get(kind.name)
        wanted = dg.RunStatusChangeRecordsFilter(
            event_type=kind,
            after_storage_id=after_id,
            after_timestamp=self.since.timestamp() if after_id is None else None,
        )
        return self._instance.fetch_run_status_changes(wanted, limit=RUNS_PER_TICK, ascending=True).records
