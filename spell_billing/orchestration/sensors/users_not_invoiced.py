"""`users_not_invoiced`: alerts on users who wait for a person, once per month and reason."""

import dagster as dg

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.text import bill_command, body, first_names, users
from spell_billing.core.money import format_amounts
from spell_billing.core.month import Month
from spell_billing.core.outcomes import REMEDIES, State
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.outbox import put
from spell_billing.ledger.waiting_users import (
    KIND,
    WaitingUsers,
    first_users,
    forget_changed,
    months_to_look_at,
    not_alerted,
    note_alerted,
)
from spell_billing.orchestration.billing_runs import months_under_way
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.unstable import sensor

NAMED_USERS = 5
"""So many appear by name; `spell-billing invoices` has them all."""


@sensor(
    KIND,
    "Alerts on users who failed, are held or parked: one alert per month and reason.",
)
def users_not_invoiced(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SkipReason:
    """Send what nobody was alerted on, of months whose billing started and that no run holds right now."""
    alerted = 0
    with ledger.open() as open_ledger:
        under_way = months_under_way(context.instance)
        forget_changed(open_ledger)
        with open_ledger.reading() as connection:
            months = months_to_look_at(connection)
        for month in months:
            if month not in under_way and not open_ledger.is_held(month):
                alerted += _alert_on(open_ledger, month)
        alerts.open(open_ledger, context.log).send_all(kind=KIND)
    return dg.SkipReason(
        f"Alerted on {alerted} reasons." if alerted else "Nobody waits whom operators do not know of."
    )


def _alert_on(ledger: Ledger, month: Month) -> int:
    """Put the alerts into the outbox, and with each the bills that it is about."""
    with ledger.reading() as connection:
        groups = [
            (group, first_users(connection, group, NAMED_USERS)) for group in not_alerted(connection, month)
        ]
    if groups:
        with ledger.writing() as connection:
            for group, named in groups:
                note_alerted(connection, group)
                put(connection, [_alert(group, named).on()])
    return len(groups)


def _alert(group: WaitingUsers, named: list[str]) -> Alert:
    month, what = group.month, "to be looked at" if group.states == {State.PARKED} else "without an invoice"
    return Alert(
        key=f"{KIND}:{month}:{group.reason}:{group.newest.isoformat()}:{group.users}",
        kind=KIND,
        title=f"{month}: {users(group.users)} {what}, {format_amounts(group.totals_cents)} ({group.reason})",
        body=body(
            REMEDIES[group.reason],
            f"Who: {first_names(named, group.users)}",
            f"Next: spell-billing invoices --month {month}, then {bill_command(month)}",
        ),
        month=str(month),
    )
