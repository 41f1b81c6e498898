"""`events_out`: tells the platform what becomes of bills, where it wants to be told; and what is overdue."""

import dagster as dg

from spell_billing.core.errors import MonthLockedError
from spell_billing.events_out.delivery import KIND, EventDelivery
from spell_billing.events_out.receiver import Receiver
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.unstable import OWNERS
from spell_billing.settings.notifications import NotificationSettings


@dg.sensor(
    name="events_out",
    minimum_interval_seconds=30,
    owners=OWNERS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Marks bills that are overdue, and sends events of bills to the platform (EVENT_URLS), signed and in "
        "order. Bounded in each tick; goes on where it was."
    ),
)
def events_out(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SkipReason:
    """Mark what is overdue, put what is new into the outbox, and send what is due."""
    settings = NotificationSettings.from_environment()
    receivers = [Receiver(url) for url in settings.event_urls]
    secret = settings.event_secret if receivers else None
    with ledger.open() as open_ledger:
        try:
            done = EventDelivery(open_ledger, receivers, secret, settings.overdue_after).round()
        except MonthLockedError:
            return dg.SkipReason("Another process is sending events.")
        if any(sent.problem for sent in done.sent.values()):
            context.log.warning(str(done))
        if receivers:
            alerts.open(open_ledger, context.log).send_all(kind=KIND)
    if not receivers:
        said = "EVENT_URLS is not set: the platform reads GET /v1/changes, or is told nothing."
        return dg.SkipReason(f"{done}. {said}" if done.overdue else said)
    return dg.SkipReason(f"events: {done}")
