"""`retry_leftovers`: has a month tried again whose run ended early for a passing reason, ever less often."""

from datetime import UTC, datetime

import dagster as dg

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.text import bill_command, body, users
from spell_billing.core.month import Month
from spell_billing.ledger.month_state import Standing, closed_months
from spell_billing.orchestration.billing_runs import months_under_way, problem_of
from spell_billing.orchestration.instance import fail_dead_runs
from spell_billing.orchestration.jobs import monthly_billing
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.sensors.tries import Tries, read_tries
from spell_billing.orchestration.unstable import OWNERS
from spell_billing.settings.billing import Settings

NAME = "retry_leftovers"
RETRY_TAG = "spell_billing/retry"
MONTHS_PER_TICK = 12


@dg.sensor(
    name=NAME,
    job=monthly_billing,
    minimum_interval_seconds=60,
    owners=OWNERS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Tries a month again whose run died or ended early for a passing reason: after 15 minutes, 1, 4 and "
        "12 hours; then operators are alerted. What needs a person is never retried."
    ),
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
        for month in closed_months(
            open_ledger.months(), first=Settings.from_environment().first_month, now=now
        ):
            if month in under_way or open_ledger.is_held(month):
                continue
            standing = open_ledger.standing(month)
            if not standing.needs_run:
                continue
            tries = read_tries(open_ledger, instance, month)
            if tries.exhausted:
                given_up.append(_alert(instance, standing, tries))
            elif tries.next_at is not None and tries.next_at <= now:
                requests.append(_request(month, tries))
        if not requests:
            # An alert that does not go out fails the tick, and with it whatever else the tick wants.
            alerts.open(open_ledger, context.log).send_all(given_up)
    if not requests:
        return dg.SensorResult(skip_reason="No month is due to be tried again.")
    return dg.SensorResult(run_requests=requests[:MONTHS_PER_TICK])


def _request(month: Month, tries: Tries) -> dg.RunRequest:
    number = len(tries.streak)
    return dg.RunRequest(
        run_key=f"{month} {number} {tries.streak[0].run_id}",
        partition_key=month.partition_key,
        tags={RETRY_TAG: str(number)},
    )


def _alert(instance: dg.DagsterInstance, standing: Standing, tries: Tries) -> Alert:
    month, last, first = standing.month, tries.streak[0], tries.streak[-1]
    known = bool(last.run_id) and instance.has_run(last.run_id)
    return Alert(
        key=f"{NAME}:{month}:{first.run_id}:{first.ended_at.isoformat()}",
        kind=NAME,
        title=f"{month} is not billed after {len(tries.streak)} tries, and not tried again by itself",
        body=body(
            f"Not sent yet: {users(standing.to_drive)}." if standing.record else "No draft was made.",
            f"The last run ended at {last.ended_at:%Y-%m-%d %H:%M} UTC"
            + (f": {problem_of(instance, last.run_id).words}" if known else "."),
            f"Next: see whether Stripe, the network and the database answer, then {bill_command(month)}",
            run_id=last.run_id if known else None,
        ),
        month=str(month),
    )
