"""`month_unbilled`: alerts on a closed month that is not billed although it is long due."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.text import bill_command, body, users
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.standing import Standing, closed_months
from spell_billing.orchestration.billing_runs import last_runs, months_under_way, problem_of
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.schedules import tick_that_bills
from spell_billing.orchestration.unstable import sensor
from spell_billing.settings.billing import Settings

KIND = "month_unbilled"


@sensor(
    KIND,
    "Alerts on a month not billed BILLING_DEADLINE_HOURS after it should have been.",
    seconds=300,
)
def month_unbilled(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SkipReason:
    """Send one alert per month, and one more when a billed month was opened again."""
    with ledger.open() as open_ledger:
        channels = alerts.open(open_ledger, context.log)
        found = channels.send_all(_overdue(open_ledger, context.instance, datetime.now(UTC)))
    return dg.SkipReason(f"{found} months are overdue." if found else "No month is overdue.")


def _overdue(ledger: Ledger, instance: dg.DagsterInstance, now: datetime) -> Iterator[Alert]:
    settings = Settings.from_environment()
    under_way = months_under_way(instance)
    for month in closed_months(ledger.months(), first=settings.first_month, now=now):
        standing = ledger.standing(month)
        due = max(tick_that_bills(month, settings.billing_cron), month.end + settings.billing_grace)
        if not standing.needs_run:
            if not standing.voided or standing.last_voided_at is None:
                # Who waits for a person is `users_not_invoiced`'s business.
                continue
            due = max(due, standing.last_voided_at)
        if now >= due + settings.billing_deadline:
            yield _alert(ledger, instance, standing, due=due, under_way=month in under_way)


def _alert(
    ledger: Ledger, instance: dg.DagsterInstance, standing: Standing, *, due: datetime, under_way: bool
) -> Alert:
    month = standing.month
    runs = last_runs(instance, month, 1)
    run = runs[0].dagster_run if runs else None
    return Alert(
        key=f"{KIND}:{month}:{standing.times_billed}",
        kind=KIND,
        title=f"{month} is not billed",
        body=body(
            f"It should have been since {due:%Y-%m-%d %H:%M} UTC.",
            _why(ledger, instance, standing, run, under_way=under_way),
            f"Next: {bill_command(month)}",
            run_id=run.run_id if run else None,
        ),
        month=str(month),
    )


def _why(
    ledger: Ledger,
    instance: dg.DagsterInstance,
    standing: Standing,
    run: dg.DagsterRun | None,
    *,
    under_way: bool,
) -> str:
    if under_way or ledger.is_held(standing.month):
        return f"A run is still at it: {_progress(ledger, standing.month)}."
    reasons = []
    if standing.record is None:
        reasons.append("No draft was made.")
    elif not standing.started:
        reasons.append("It was drafted, and nothing was sent to Stripe.")
    elif standing.to_drive:
        reasons.append(f"To be tried again: {users(standing.to_drive)}.")
    elif standing.voided:
        reasons.append(f"Voided, to be billed again: {users(standing.voided)}.")
    else:
        reasons.append("Every user is done; the last run died before it said so.")
    if run is None:
        reasons.append("No run was ever launched: see whether Dagster's daemon runs and the schedule is on.")
    elif run.status in {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}:
        reasons.append(f"The last run ended early: {problem_of(instance, run.run_id).words}")
    return " ".join(reasons)


def _progress(ledger: Ledger, month: Month) -> str:
    groups = ledger.group_totals(month)
    invoiced = sum(group.users for group in groups if group.state in INVOICED)
    return f"{invoiced:,} of {users(sum(group.users for group in groups))} are invoiced"
