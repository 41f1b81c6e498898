"""`payments`, `mail`, `events_out`: what comes from Stripe and goes to users and the platform."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg

from spell_billing.alerts.alert import Alert
from spell_billing.core.errors import MonthLockedError, SettingsError
from spell_billing.events_out.delivery import KIND, EventDelivery, Receiver
from spell_billing.ledger.unpaid import anything_to_follow
from spell_billing.mail.delivery import Delivery
from spell_billing.mail.letters import Letters
from spell_billing.mail.settings import MailSettings
from spell_billing.orchestration.resources import AlertResource, LedgerResource, StripeResource, UsageResource
from spell_billing.orchestration.unstable import sensor
from spell_billing.payments.follow import follow_payments
from spell_billing.settings.billing import Settings
from spell_billing.settings.notifications import NotificationSettings

_ALARM_AFTER = timedelta(hours=1)
"""A mail server may be away for a moment; one that stays away raises an alert."""


@sensor(
    "payments",
    "Reads Stripe's events, brings bills up to what became of their invoices, and alerts on failed "
    "payments. Bounded in each tick; goes on where it was.",
)
def payments(
    context: dg.SensorEvaluationContext,
    ledger: LedgerResource,
    stripe: StripeResource,
    alerts: AlertResource,
) -> dg.SkipReason:
    """Follow payments once."""
    if not stripe.has_key:
        return dg.SkipReason("STRIPE_API_KEY is not set: no payment can be followed.")
    dunning_days: tuple[int, ...] = ()
    wrong = None
    try:
        dunning_days = Settings.from_environment().dunning_days
    except SettingsError as error:
        # Payments are followed all the same.
        wrong = error
    with ledger.open() as open_ledger:
        with open_ledger.reading() as connection:
            if not anything_to_follow(connection):
                return dg.SkipReason("No bill has an invoice at Stripe: there is nothing to follow.")
        try:
            with open_ledger.exclusive("payments", wait_seconds=0):
                channels = alerts.open(open_ledger, context.log)
                connect = partial(stripe.connect, open_ledger)
                done = follow_payments(open_ledger, connect, channels, dunning_days=dunning_days)
        except MonthLockedError:
            return dg.SkipReason("The previous tick is still running.")
    if wrong is not None:
        raise wrong
    return dg.SkipReason(done.in_words)


@sensor(
    "mail",
    "Sends users mail about finalized invoices and failed payments. Off unless MAIL_URL is set.",
    seconds=30,
)
def mail(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, usage: UsageResource, alerts: AlertResource
) -> dg.SkipReason:
    """Put what is new into the outbox, and send what is due."""
    settings = MailSettings.from_environment()
    if settings.server is None:
        return dg.SkipReason("MAIL_URL is not set: users get no mail from here (Stripe may send its own).")
    letters = Letters(settings.templates, settings.sender)

    def addresses(user_ids: Collection[str]) -> Mapping[str, str | None]:
        wanted = usage.source().accounts(user_ids)
        return dict(zip(wanted["user_id"].to_pylist(), wanted["email"].to_pylist(), strict=True))

    with ledger.open() as open_ledger:
        try:
            delivered = Delivery(open_ledger, settings.server, letters, addresses).round()
        except MonthLockedError:
            return dg.SkipReason("Another process is sending mail to users.")
        if delivered.trouble or delivered.given_up:
            context.log.warning(str(delivered))
        since = delivered.waiting_since
        if delivered.trouble and since is not None and datetime.now(UTC) - since >= _ALARM_AFTER:
            alerts.open(open_ledger, context.log).send(
                Alert(
                    key=f"mail_stuck:{since.isoformat()}",
                    kind="mail_stuck",
                    title="Mail to users does not go out",
                    body=(
                        f"The mail server {settings.server} has not accepted mail that has waited since "
                        f"{since:%Y-%m-%d %H:%M} UTC: {delivered.trouble}. Nothing is lost; it is "
                        "retried. Check MAIL_URL and the server."
                    ),
                )
            )
    return dg.SkipReason(str(delivered))


@sensor(
    "events_out",
    "Marks bills that are overdue, and sends events of bills to the platform (EVENT_URLS), signed and in "
    "order. Bounded in each tick; goes on where it was.",
    seconds=30,
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
        unset = "EVENT_URLS is not set: the platform can read GET /v1/changes instead."
        return dg.SkipReason(f"{done}. {unset}" if done.overdue else unset)
    return dg.SkipReason(f"events: {done}")
