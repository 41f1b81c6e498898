"""`payments`: the ledger follows what Stripe collects, and alerts on failed payments."""

from functools import partial

import dagster as dg

from spell_billing.core.errors import MonthLockedError, SettingsError
from spell_billing.ledger.unpaid import anything_to_follow
from spell_billing.orchestration.resources import AlertResource, LedgerResource, StripeResource
from spell_billing.orchestration.unstable import sensor
from spell_billing.payments.follow import follow_payments
from spell_billing.settings.billing import Settings


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
            return dg.SkipReason("The tick before is still at work.")
    if wrong is not None:
        raise wrong
    return dg.SkipReason(done.in_words)
