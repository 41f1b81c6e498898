"""Billing runs that have ended since the last tick, and the cursor that says how far a sensor has read.

Dagster's own run status sensor moves its cursor even when the sensor raises; this one is moved by the sensor.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

import dagster as dg

from spell_billing.billing_runs import is_billing

RUNS_PER_TICK = 50
"""Of each kind; those that are left come with the next tick."""

FIRST_LOOK_BACK = timedelta(hours=24)
"""A sensor that has never ticked begins here: what failed while it was being deployed is not lost, and an
instance with a long history does not tell all of it."""

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


@dataclass
class Cursor:
    """How far was read, by kind of event: the storage id of the last one that is done with.

    Attributes:
        since: Where kinds begin of which nothing was read yet.
        ids: By kind.
    """

    since: datetime
    ids: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what a tick left."""
        content = json.loads(text)
        return cls(datetime.fromisoformat(content["since"]), content["ids"])

    def __str__(self) -> str:
        return json.dumps({"since": self.since.isoformat(), "ids": self.ids})


def first_tick(context: dg.SensorEvaluationContext, now: datetime) -> dg.SensorResult | None:
    """Return the result of a sensor's first tick; None when it has ticked before.

    It only says where to begin. If it also sent alerts, one that does not go out would fail it, and the next
    tick would be the first again and begin later.
    """
    if context.cursor is not None:
        return None
    begin = Cursor(now - FIRST_LOOK_BACK)
    return dg.SensorResult(
        skip_reason=f"First tick: begins with {begin.since.isoformat()}.", cursor=str(begin)
    )


class EndedRuns:
    """Reads ended runs for one tick, oldest first.

    Args:
        context: The sensor's tick, not its first.
        kinds: The events that the sensor reacts to.
        now: An aware datetime.
    """

    def __init__(self, context: dg.SensorEvaluationContext, kinds: Iterable[Kind], now: datetime) -> None:
        self._instance = context.instance
        origin = context.code_location_origin
        self._location = origin.location_name if origin is not None else None
        self._kinds = tuple(kinds)
        self._now = now
        self._before = Cursor.parse(context.cursor or str(Cursor(now)))
        self._records: dict[Kind, list[tuple[int, datetime]]] = {}
        self._pending: set[int] = set()

    @property
    def since(self) -> datetime:
        """Since when the sensor watches."""
        return self._before.since

    def __iter__(self) -> Iterator[EndedRun]:
        for kind in self._kinds:
            records = self._read(kind)
            times = [datetime.fromtimestamp(record.timestamp, UTC) for record in records]
            self._records[kind] = [(record.storage_id, at) for record, at in zip(records, times, strict=True)]
            runs = self._runs({record.run_id for record in records})
            for record, at in zip(records, times, strict=True):
                run = runs.get(record.run_id)
                if run is not None and is_billing(run, self._location):
                    yield EndedRun(kind, record.storage_id, at, run)

    def hold(self, ended: EndedRun) -> None:
        """Have a run read again by the next tick: what becomes of it is not known yet."""
        self._pending.add(ended.storage_id)

    @property
    def cursor(self) -> str:
        """The cursor to leave when everything that was read is done with."""
        after = Cursor(self._before.since, dict(self._before.ids))
        for kind, records in self._records.items():
            for storage_id, at in records:
                if storage_id in self._pending or at > self._now - OVERLAP:
                    break
                after.ids[kind.name] = storage_id
        return str(after)

    def _read(self, kind: Kind) -> list[dg.EventLogRecord]:
        after_id = self._before.ids.get(kind.name)
        wanted = dg.RunStatusChangeRecordsFilter(
            event_type=kind,
            after_storage_id=after_id,
            after_timestamp=self._before.since.timestamp() if after_id is None else None,
        )
        return list(
            self._instance.fetch_run_status_changes(wanted, limit=RUNS_PER_TICK, ascending=True).records
        )

    def _runs(self, run_ids: set[str]) -> dict[str, dg.DagsterRun]:
        if not run_ids:
            return {}
        found = self._instance.get_runs(dg.RunsFilter(run_ids=sorted(run_ids)))
        return {run.run_id: run for run in found}
