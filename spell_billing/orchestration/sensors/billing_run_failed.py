"""`billing_run_failed`: alerts on each billing run that failed or was canceled, and of backfills."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.text import bill_command, body
from spell_billing.orchestration.assets.common import actor_of
from spell_billing.orchestration.billing_runs import is_billing_backfill, month_of, problem_of, short
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.sensors.ended_runs import EndedRun, EndedRuns, first_tick
from spell_billing.orchestration.unstable import OWNERS
from spell_billing.settings.databases import DatabaseUnreachableError

KIND = "billing_run_failed"
BACKFILLS_PER_TICK = 20

_FAILED: Final = dg.DagsterEventType.RUN_FAILURE
_CANCELED: Final = dg.DagsterEventType.RUN_CANCELED
_WILL_RETRY = "dagster/will_retry"
_RETRIED_AS = "dagster/auto_retry_run_id"
_TAG_DELAY = timedelta(seconds=60)
"""Dagster writes whether it runs a failed run again a moment after the failure itself."""
_RETRY_DELAY = timedelta(minutes=10)
"""A run that was not retried within this time will not be."""


@dg.sensor(
    name=KIND,
    minimum_interval_seconds=60,
    owners=OWNERS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Alerts on billing runs that failed or were canceled, unless they are run again.",
)
def billing_run_failed(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SensorResult:
    """Send one alert per run; the cursor moves when all of them went out."""
    now = datetime.now(UTC)
    if (first := first_tick(context, now)) is not None:
        return first
    ended = EndedRuns(context, (_FAILED, _CANCELED), now)
    with ExitStack() as stack:
        opened = None
        # Without the ledger too: its failure is among those to alert on.
        with suppress(DatabaseUnreachableError):
            opened = stack.enter_context(ledger.open())
        sent = alerts.open(opened, context.log).send_all(_found(context, ended, now))
    said = f"Alerted on {sent} recently failed runs." if sent else "No billing run failed."
    return dg.SensorResult(skip_reason=said, cursor=ended.cursor)


def _found(context: dg.SensorEvaluationContext, ended_runs: EndedRuns, now: datetime) -> Iterator[Alert]:
    for ended in ended_runs:
        again = _run_again(ended, now, retries=context.instance.run_retries_enabled)
        if again is None:
            ended_runs.hold(ended)
        elif not again:
            yield _alert(context.instance, ended)
    for backfill in context.instance.get_backfills(limit=BACKFILLS_PER_TICK):
        young = backfill.backfill_timestamp >= ended_runs.since.timestamp()
        # On its runs that fail alerts go out one by one; this one could not even launch them.
        if young and backfill.status.value == "FAILED" and is_billing_backfill(backfill):
            yield Alert(
                key=f"{KIND}:backfill:{backfill.backfill_id}",
                kind=KIND,
                title="A backfill of billing could not launch its runs",
                body=body(
                    short(backfill.error.message) if backfill.error else None,
                    f"Next: look at backfill {backfill.backfill_id} in Dagster, then start it again.",
                ),
            )


def _run_again(ended: EndedRun, now: datetime, *, retries: bool) -> bool | None:
    """Return whether Dagster runs a failed run again; None when that is not known yet."""
    tags, age = ended.run.tags, now - ended.at
    if ended.kind is _CANCELED:
        return False
    if tags.get(_WILL_RETRY) == "true":
        if _RETRIED_AS in tags:
            return True
        return None if age < _RETRY_DELAY else False
    return None if retries and _WILL_RETRY not in tags and age < _TAG_DELAY else False


def _alert(instance: dg.DagsterInstance, ended: EndedRun) -> Alert:
    run, problem, month = ended.run, problem_of(instance, ended.run.run_id), month_of(ended.run)
    of_month = f" of {month}" if month else ""
    verb = "was canceled" if ended.kind is _CANCELED else "failed"
    at = f" at {problem.step}" if problem.step else ""
    return Alert(
        key=f"{KIND}:{run.run_id}",
        kind=KIND,
        title=f"The billing run{of_month} {verb}{at}",
        body=body(
            problem.words,
            f"Launched by {actor_of(run).name}; run {run.run_id}.",
            f"Next: {bill_command(month)}" if month else None,
            run_id=run.run_id,
        ),
        month=str(month) if month else None,
    )
