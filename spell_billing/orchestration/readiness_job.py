"""The weekly check of payment readiness: a job of its own, because a large platform's takes an hour."""

from datetime import UTC, datetime

import dagster as dg

from spell_billing.alerts.alert import Alert, body, first_names, users
from spell_billing.core.errors import SpellBillingError
from spell_billing.core.money import format_amounts
from spell_billing.core.month import Month
from spell_billing.orchestration.resources import AlertResource, LedgerResource, StripeResource, UsageResource
from spell_billing.orchestration.unstable import OWNERS
from spell_billing.reporting.readiness import REMEDIES, Readiness, check_readiness, owing_so_far

KIND = "payment_readiness"
_NAMED = 10
_MAX_RUNTIME_SECONDS = 6 * 3600


@dg.op(description="Names users with usage in the present month who have no way to pay for it.")
def check_payment_readiness(
    context: dg.OpExecutionContext,
    ledger: LedgerResource,
    usage: UsageResource,
    stripe: StripeResource,
    alerts: AlertResource,
) -> None:
    """Check the present month, and alert operators, at most once in a week."""
    now = datetime.now(UTC)
    with ledger.open() as open_ledger:
        channels = alerts.open(open_ledger, context.log)
        month = Month.containing(now)
        try:
            source = usage.source()
            owing = owing_so_far(source, month, source.so_far(month))
            found = stripe.work(open_ledger, lambda gateway: check_readiness(month, owing, gateway))
        except SpellBillingError as error:
            channels.send(
                Alert(
                    key=f"{KIND}_failed:{week_of(now)}",
                    kind=KIND,
                    title="The weekly check of payment readiness failed",
                    body=body(str(error), "Next: spell-billing readiness"),
                )
            )
            raise
        context.log.info(f"{month}: {len(found.unready):,} of {users(len(found.owing))} have no way to pay.")
        if found.unready:
            channels.send(_alert(found, now))


@dg.job(
    name="payment_readiness",
    owners=OWNERS,
    description="Checks who has usage in the present month and no way to pay, and alerts operators.",
    tags={"dagster/max_runtime": str(_MAX_RUNTIME_SECONDS), "dagster/retry_on_asset_or_op_failure": "false"},
)
def payment_readiness() -> None:
    """Check once."""
    check_payment_readiness()


def week_of(moment: datetime) -> str:
    """Name the week of an aware datetime, in UTC, as 2026-W44."""
    year, week, _ = moment.astimezone(UTC).isocalendar()
    return f"{year}-W{week:02}"


def _alert(found: Readiness, now: datetime) -> Alert:
    number, total = len(found.unready), format_amounts(found.unready_cents)
    names = [each.owing.user_id for each in found.unready[:_NAMED]]
    return Alert(
        key=f"{KIND}:{week_of(now)}",
        kind=KIND,
        title=f"{users(number)} of {found.month} have no way to pay {total}",
        body=body(
            f"Of {users(len(found.owing))} who owe something for {found.month.label} so far. The largest: "
            f"{first_names(names, number)}",
            *(
                f"{users(count)}, {format_amounts(sums)}: {REMEDIES[gap]}"
                for gap, (count, sums) in found.by_gap().items()
            ),
            f"Next: spell-billing readiness --month {found.month}",
        ),
        month=str(found.month),
    )
