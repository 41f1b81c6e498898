"""`users_not_invoiced`: alerts on users who wait for a person, once per month and reason."""

import dagster as dg

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.channels import Alerts
from spell_billing.alerts.text import amounts, bill_command, body, first_names, users
from spell_billing.billing_runs import months_under_way
from spell_billing.core.errors import AlertError
from spell_billing.core.outcomes import REMEDIES, State
from spell_billing.dagster_unstable import OWNERS
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.reported import Unreported
from spell_billing.resources import AlertResource, LedgerResource

KIND = "users_not_invoiced"
NAMED_USERS = 5
"""So many appear by name; `spell-billing invoices` has them all."""


@dg.sensor(
    name=KIND,
    minimum_interval_seconds=60,
    owners=OWNERS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Alerts on users who failed, are held or parked: one alert per month and reason.",
)
def users_not_invoiced(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SkipReason:
    """Send what nobody was told yet, of months whose billing started and that no run holds right now."""
    sent, first_problem = 0, None
    with ledger.open() as open_ledger:
        channels, under_way = alerts.open(open_ledger, context.log), months_under_way(context.instance)
        open_ledger.reported.forget_changed()
        for month in open_ledger.reported.months_to_look_at():
            if month in under_way or open_ledger.is_held(month):
                continue
            for group in open_ledger.reported.unreported(month):
                try:
                    _tell(open_ledger, channels, group)
                except AlertError as problem:
                    first_problem = first_problem or problem
                sent += 1
    if first_problem is not None:
        raise first_problem
    return dg.SkipReason(f"Told of {sent} reasons." if sent else "Nobody waits whom people do not know of.")


def _tell(ledger: Ledger, channels: Alerts, group: Unreported) -> None:
    month, named = group.month, ledger.reported.first_users(group, NAMED_USERS)
    parked = group.states == {State.PARKED}
    what = "to be looked at" if parked else "without an invoice"
    channels.send(
        Alert(
            key=f"{KIND}:{month}:{group.reason}:{group.newest.isoformat()}:{group.users}",
            kind=KIND,
            title=f"{month}: {users(group.users)} {what}, {amounts(group.totals_cents)} ({group.reason})",
            body=body(
                f"{REMEDIES[group.reason]}",
                f"Who: {first_names(named, group.users)}",
                f"Next: spell-billing invoices --month {month}, then {bill_command(month)}",
            ),
            month=str(month),
        )
    )
    # Only now: what did not go out on every channel is told again.
    ledger.reported.mark(group)
