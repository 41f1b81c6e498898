"""`billing_checks_failed`: alerts on each check that did not pass, blocking or not, once per run."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.text import bill_command, body
from spell_billing.core.month import Month
from spell_billing.orchestration.billing_runs import month_of, short
from spell_billing.orchestration.checks.draft_checks import month_is_plausible
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.sensors.ended_runs import EndedRun, EndedRuns, Kind, first_tick
from spell_billing.orchestration.unstable import OWNERS

KIND = "billing_checks_failed"

_IN_REVIEW = next(iter(month_is_plausible.check_keys))
"""The sensor `month_in_review` alerts on it, once for the same drafts however many runs find them."""

_ENDED: tuple[Kind, ...] = (
    dg.DagsterEventType.RUN_SUCCESS,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
)


@dg.sensor(
    name=KIND,
    minimum_interval_seconds=60,
    owners=OWNERS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Alerts on asset checks that did not pass, when their run has ended.",
)
def billing_checks_failed(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SensorResult:
    """Send one alert per run and check; the cursor moves when all of them went out."""
    now = datetime.now(UTC)
    if (first := first_tick(context, now)) is not None:
        return first
    ended_runs = EndedRuns(context, _ENDED, now)
    with ledger.open() as open_ledger:
        found = (alert for ended in ended_runs for alert in _alerts(context.instance, ended))
        sent = alerts.open(open_ledger, context.log).send_all(found)
    said = f"Alerted on {sent} recently failed checks." if sent else "No check of a run failed."
    return dg.SensorResult(skip_reason=said, cursor=ended_runs.cursor)


def _alerts(instance: dg.DagsterInstance, ended: EndedRun) -> Iterator[Alert]:
    run, month = ended.run, month_of(ended.run)
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        if entry.dagster_event is None:
            continue
        evaluation = entry.dagster_event.asset_check_evaluation_data
        if evaluation.passed or evaluation.asset_check_key == _IN_REVIEW:
            continue
        name, asset = evaluation.asset_check_key.name, evaluation.asset_key.to_user_string()
        yield Alert(
            key=f"{KIND}:{run.run_id}:{asset}:{name}",
            kind=KIND,
            title=f"The check {name} failed" + (f" for {month}" if month else ""),
            body=body(
                short(evaluation.description or "It gives no description."),
                "Nothing after it in this run was done: nothing was sent to Stripe."
                if evaluation.blocking
                else "The run went on; invoices that it sent stand.",
                _next(month, blocking=bool(evaluation.blocking)),
                run_id=run.run_id,
            ),
            month=str(month) if month else None,
        )


def _next(month: Month | None, *, blocking: bool) -> str | None:
    if month is None:
        return None
    if blocking:
        return f"Next: {bill_command(month)}"
    return f"Next: spell-billing status --month {month}, then spell-billing reconcile --month {month}"
