"""`billing_run_failed` and `billing_checks_failed`: alerts on billing runs that have ended, once per run.

Dagster's own run status sensor moves its cursor even when the sensor raises; these move it when every alert
went out. They read what has ended since the last tick, and do so without the ledger too.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import dagster as dg

from spell_billing.alerts.alert import Alert, bill_command, body
from spell_billing.orchestration.assets.common import actor_of
from spell_billing.orchestration.billing_runs import (
    is_billing,
    is_billing_backfill,
    is_run_again,
    month_of,
    problem_of,
    short,
)
from spell_billing.orchestration.checks import month_is_plausible
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.unstable import sensor
from spell_billing.settings.databases import DatabaseUnreachableError

RUNS_PER_TICK = 50
"""Of each kind; those that are left come with the next tick."""

BACKFILLS_PER_TICK = 20

FIRST_LOOK_BACK = timedelta(hours=24)
"""A sensor that has never ticked begins here: what failed while it was being deployed is not lost, and an
instance with a long history does not alert on all of it."""

OVERLAP = timedelta(seconds=60)
"""Events this young are read again: one with a smaller id may appear after one with a larger. The alert's key
keeps it from going out twice."""

_IN_REVIEW = next(iter(month_is_plausible.check_keys))
"""The sensor `month_in_review` alerts on it, once for the same drafts however many runs find them."""

_Kind = Literal[
    dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED, dg.DagsterEventType.RUN_SUCCESS
]
_FAILED: tuple[_Kind, ...] = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED)


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A billing run that has ended."""

    kind: _Kind
    storage_id: int
    at: datetime
    run: dg.DagsterRun


class EndedRuns:
    """The billing runs that one tick reads, oldest first; `since` says since when the sensor watches."""

    def __init__(self, context: dg.SensorEvaluationContext, kinds: Iterable[_Kind], now: datetime) -> None:
        self.instance = context.instance
        self.now = now
        origin = context.code_location_origin
        self._location = origin.location_name if origin is not None else None
        self._kinds = tuple(kinds)
        before = json.loads(context.cursor or "{}")
        self.since = datetime.fromisoformat(before["since"])
        # By kind, the storage id of the last event that is done with.
        self._ids: dict[str, int] = before["ids"]
        self._held: set[int] = set()

    def __iter__(self) -> Iterator[EndedRun]:
        for kind in self._kinds:
            after_id = self._ids.get(kind.name)
            wanted = dg.RunStatusChangeRecordsFilter(
                event_type=kind,
                after_storage_id=after_id,
                after_timestamp=self.since.timestamp() if after_id is None else None,
            )
            changes = self.instance.fetch_run_status_changes(wanted, limit=RUNS_PER_TICK, ascending=True)
            records = changes.records
            run_ids = sorted({record.run_id for record in records})
            found = self.instance.get_runs(dg.RunsFilter(run_ids=run_ids)) if run_ids else []
            runs = {run.run_id: run for run in found if is_billing(run, self._location)}
            done = True
            for record in records:
                at = datetime.fromtimestamp(record.timestamp, UTC)
                if record.run_id in runs:
                    yield EndedRun(kind, record.storage_id, at, runs[record.run_id])
                done = done and record.storage_id not in self._held and at <= self.now - OVERLAP
                if done:
                    self._ids[kind.name] = record.storage_id

    def hold(self, ended: EndedRun) -> None:
        """Have a run read again by the next tick: what becomes of it is not known yet."""
        self._held.add(ended.storage_id)

    @property
    def cursor(self) -> str:
        """The cursor to leave when everything that was read is done with."""
        return json.dumps({"since": self.since.isoformat(), "ids": self._ids})


def _tick(
    context: dg.SensorEvaluationContext,
    ledger: LedgerResource,
    alerts: AlertResource,
    *,
    kinds: Iterable[_Kind],
    found: Callable[[EndedRuns], Iterator[Alert]],
    what: str,
) -> dg.SensorResult:
    now = datetime.now(UTC)
    if context.cursor is None:
        # No alert yet: if one did not go out, the next tick would be the first again, and begin later.
        since = (now - FIRST_LOOK_BACK).isoformat()
        cursor = json.dumps({"since": since, "ids": {}})
        return dg.SensorResult(skip_reason=f"First tick: begins with {since}.", cursor=cursor)
    ended_runs = EndedRuns(context, kinds, now)
    with ExitStack() as stack:
        opened = None
        # Without the ledger too: its failure is among those to alert on.
        with suppress(DatabaseUnreachableError):
            opened = stack.enter_context(ledger.open())
        sent = alerts.open(opened, context.log).send_all(found(ended_runs))
    reason = f"Alerted on {sent} recently failed {what}s." if sent else f"No {what} failed."
    return dg.SensorResult(skip_reason=reason, cursor=ended_runs.cursor)


@sensor(
    "billing_run_failed", "Alerts on billing runs that failed or were canceled, unless they are run again."
)
def billing_run_failed(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SensorResult:
    """Send one alert per run, and per backfill that could not launch its runs."""
    return _tick(context, ledger, alerts, kinds=_FAILED, found=_of_failures, what="billing run")


def _of_failures(ended_runs: EndedRuns) -> Iterator[Alert]:
    instance = ended_runs.instance
    for ended in ended_runs:
        again = is_run_again(instance, ended.run, ended.at, ended_runs.now)
        if again is None:
            ended_runs.hold(ended)
        elif not again:
            yield _of_failed_run(instance, ended)
    for backfill in instance.get_backfills(limit=BACKFILLS_PER_TICK):
        young = backfill.backfill_timestamp >= ended_runs.since.timestamp()
        # On its runs that fail alerts go out one by one; this one could not even launch them.
        if young and backfill.status.value == "FAILED" and is_billing_backfill(backfill):
            yield Alert(
                key=f"billing_run_failed:backfill:{backfill.backfill_id}",
                kind="billing_run_failed",
                title="A backfill of billing could not launch its runs",
                body=body(
                    short(backfill.error.message) if backfill.error else None,
                    f"Next: look at backfill {backfill.backfill_id} in Dagster, then start it again.",
                ),
            )


def _of_failed_run(instance: dg.DagsterInstance, ended: EndedRun) -> Alert:
    run, problem, month = ended.run, problem_of(instance, ended.run.run_id), month_of(ended.run)
    of_month = f" of {month}" if month else ""
    verb = "was canceled" if ended.kind is dg.DagsterEventType.RUN_CANCELED else "failed"
    at = f" at {problem.step}" if problem.step else ""
    return Alert(
        key=f"billing_run_failed:{run.run_id}",
        kind="billing_run_failed",
        title=f"The billing run{of_month} {verb}{at}",
        body=body(
            problem.words,
            f"Launched by {actor_of(run).name}; run {run.run_id}.",
            f"Next: {bill_command(month)}" if month else None,
            run_id=run.run_id,
        ),
        month=str(month) if month else None,
    )


@sensor("billing_checks_failed", "Alerts on asset checks that did not pass, when their run has ended.")
def billing_checks_failed(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SensorResult:
    """Send one alert per run and check that did not pass, blocking or not."""
    kinds: tuple[_Kind, ...] = (dg.DagsterEventType.RUN_SUCCESS, *_FAILED)
    return _tick(context, ledger, alerts, kinds=kinds, found=_of_checks, what="check")


def _of_checks(ended_runs: EndedRuns) -> Iterator[Alert]:
    of_type = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    for ended in ended_runs:
        run, month = ended.run, month_of(ended.run)
        for entry in ended_runs.instance.all_logs(run.run_id, of_type=of_type):
            if entry.dagster_event is None:
                continue
            evaluation = entry.dagster_event.asset_check_evaluation_data
            if evaluation.passed or evaluation.asset_check_key == _IN_REVIEW:
                continue
            name, asset = evaluation.asset_check_key.name, evaluation.asset_key.to_user_string()
            effect = "The run went on; invoices that it sent stand."
            remedy = f"spell-billing status --month {month}, then spell-billing reconcile --month {month}"
            if evaluation.blocking:
                effect = "Nothing after it in this run was done: nothing was sent to Stripe."
                remedy = bill_command(month) if month else ""
            yield Alert(
                key=f"billing_checks_failed:{run.run_id}:{asset}:{name}",
                kind="billing_checks_failed",
                title=f"The check {name} failed" + (f" for {month}" if month else ""),
                body=body(
                    short(evaluation.description or "It gives no description."),
                    effect,
                    f"Next: {remedy}" if month else None,
                    run_id=run.run_id,
                ),
                month=str(month) if month else None,
            )
