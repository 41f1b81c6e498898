"""`retry_leftovers`: has a month tried again whose run ended early for a passing reason, ever less often."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import dagster as dg

from spell_billing.alerts.alert import Alert, bill_command, body, users
from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.month_state import Standing, closed_months
from spell_billing.ledger.runs import RunResult
from spell_billing.orchestration.billing_runs import is_run_again, last_runs, months_under_way, problem_of
from spell_billing.orchestration.instance import fail_dead_runs
from spell_billing.orchestration.jobs import monthly_billing
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.schedules import MONTHS_PER_TICK
from spell_billing.orchestration.unstable import sensor
from spell_billing.settings.billing import Settings

NAME = "retry_leftovers"
RETRY_TAG = "spell_billing/retry"
PAUSES = (timedelta(minutes=15), timedelta(hours=1), timedelta(hours=4), timedelta(hours=12))
"""After the first try that ended early, the second, and so on; after one more, operators are alerted."""

_LOOK_AT = 20


@dataclass(frozen=True, slots=True)
class Try:
    """A run of a month that has ended, and whether the next may go further although nobody did anything."""

    run_id: str
    ended_at: datetime
    again: bool


@sensor(
    NAME,
    "Tries a month again whose run died or ended early for a passing reason: after 15 minutes, 1, 4 and "
    "12 hours; then operators are alerted. What needs a person is never retried.",
    job=monthly_billing,
)
def retry_leftovers(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SensorResult:
    """Request the runs that are due; the alerts of months given up follow when none is due."""
    now = datetime.now(UTC)
    instance = context.instance
    requests, given_up = [], []
    with ledger.open() as open_ledger:
        # A `bill` that was killed would hold its month for as long as a run may last.
        fail_dead_runs(instance, open_ledger)
        under_way = months_under_way(instance)
        first = Settings.from_environment().first_month
        for month in closed_months(open_ledger.months(), first=first, now=now):
            if month in under_way or open_ledger.is_held(month):
                continue
            standing = open_ledger.standing(month)
            tries = _tries(open_ledger, instance, month, now) if standing.needs_run else []
            streak = newest_streak(tries)
            if len(streak) > len(PAUSES):
                given_up.append(_alert(instance, standing, streak))
            elif streak and streak[0].ended_at + PAUSES[len(streak) - 1] <= now:
                requests.append(
                    dg.RunRequest(
                        run_key=f"{month} {len(streak)} {streak[0].run_id}",
                        partition_key=month.partition_key,
                        tags={RETRY_TAG: str(len(streak))},
                    )
                )
        if requests:
            return dg.SensorResult(run_requests=requests[:MONTHS_PER_TICK])
        # An alert that does not go out fails the tick, and with it whatever else the tick wants.
        alerts.open(open_ledger, context.log).send_all(given_up)
    return dg.SensorResult(skip_reason="No month is due to be tried again.")


def newest_streak(tries: Iterable[Try]) -> list[Try]:
    """Return the tries since the month last waited for an operator, or was done; the newest first."""
    ordered = sorted(tries, key=lambda each: each.ended_at, reverse=True)
    return list(takewhile(lambda each: each.again, ordered))


def _tries(ledger: Ledger, instance: dg.DagsterInstance, month: Month, now: datetime) -> list[Try]:
    """Read a month's tries: from the ledger where the run wrote its result, else from Dagster.

    A run that died wrote none, and one that failed before it came to Stripe neither. One that Dagster runs
    again is left out: its retry is the try.
    """
    again = {RunResult.UNFINISHED, RunResult.STOPPED}
    records = ledger.runs(month, limit=_LOOK_AT)
    tries = [Try(record.run_id, record.ended_at, record.result in again) for record in records]
    recorded = {record.run_id for record in records}
    for found in last_runs(instance, month, _LOOK_AT):
        run = found.dagster_run
        if run.run_id in recorded or found.end_time is None:
            continue
        ended_at = datetime.fromtimestamp(found.end_time, UTC)
        ended_early = run.status in {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
        if ended_early and is_run_again(instance, run, ended_at, now) is False:
            tries.append(Try(run.run_id, ended_at, problem_of(instance, run.run_id).transient))
    return tries


def _alert(instance: dg.DagsterInstance, standing: Standing, streak: list[Try]) -> Alert:
    month, last, first = standing.month, streak[0], streak[-1]
    known = bool(last.run_id) and instance.has_run(last.run_id)
    return Alert(
        key=f"{NAME}:{month}:{first.run_id}:{first.ended_at.isoformat()}",
        kind=NAME,
        title=f"{month} is not billed after {len(streak)} tries, and is not retried automatically",
        body=body(
            f"Not sent yet: {users(standing.to_drive)}." if standing.record else "No draft was made.",
            f"The last run ended at {last.ended_at:%Y-%m-%d %H:%M} UTC"
            + (f": {problem_of(instance, last.run_id).words}" if known else "."),
            f"Next: check that Stripe, the network and the database respond, then {bill_command(month)}",
            run_id=last.run_id if known else None,
        ),
        month=str(month),
    )
