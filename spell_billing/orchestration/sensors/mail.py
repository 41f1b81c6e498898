"""`mail`: sends users mail about their invoices and failed payments, where it is switched on."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg

from spell_billing.alerts.alert import Alert
from spell_billing.core.errors import MonthLockedError
from spell_billing.mail.delivery import Delivery
from spell_billing.mail.letters import Letters
from spell_billing.mail.settings import MailSettings
from spell_billing.orchestration.resources import AlertResource, LedgerResource, UsageResource
from spell_billing.orchestration.unstable import sensor

_ALARM_AFTER = timedelta(hours=1)
"""A mail server may be away for a moment; one that stays away raises an alert."""


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
                        f"The mail server {settings.server} has not taken mail that waits since "
                        f"{since:%Y-%m-%d %H:%M} UTC: {delivered.trouble}. Nothing is lost, it is tried "
                        "again. Check MAIL_URL and the server."
                    ),
                )
            )
    return dg.SkipReason(str(delivered))
