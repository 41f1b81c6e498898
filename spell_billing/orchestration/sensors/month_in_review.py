"""`month_in_review`: alerts on a month that is not sent until somebody approves it, once per drafts."""

from collections.abc import Iterator

import dagster as dg

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.text import bill_command, body, users
from spell_billing.core.money import format_amounts
from spell_billing.core.month import Month
from spell_billing.invoicing.review_month import approve_command
from spell_billing.ledger.comparing import charged
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.reviews import read_review
from spell_billing.orchestration.billing_runs import months_under_way
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.unstable import sensor

KIND = "month_in_review"


@sensor(
    KIND,
    "Alerts on a month in review: what was found, and how it is approved.",
)
def month_in_review(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SkipReason:
    """Send one alert per month and drafts; drafts that changed are another review."""
    with ledger.open() as open_ledger:
        channels = alerts.open(open_ledger, context.log)
        found = channels.send_all(_in_review(open_ledger, months_under_way(context.instance)))
    return dg.SkipReason(f"{found} months are in review." if found else "No month is in review.")


def _in_review(ledger: Ledger, under_way: frozenset[Month]) -> Iterator[Alert]:
    for record in ledger.months():
        month = Month.parse(record.month)
        # A run that is at it may draft anew, and the findings be others.
        if record.billing_started_at is None and month not in under_way and not ledger.is_held(month):
            alert = _alert(ledger, month)
            if alert is not None:
                yield alert


def _alert(ledger: Ledger, month: Month) -> Alert | None:
    with ledger.reading() as connection:
        review = read_review(connection, month)
        if review is None or not review.needs_approval:
            return None
        bills = charged(connection, str(month))
    cents: dict[str, int] = {}
    for each in bills:
        cents[each.currency] = cents.get(each.currency, 0) + each.cents
    waiting = f"{users(sum(each.users for each in bills))}, {format_amounts(cents)}" if bills else "no bill"
    return Alert(
        key=f"{KIND}:{month}:{review.drafts_hash}",
        kind=KIND,
        title=f"{month} is in review: nothing was sent",
        body=body(
            *(str(finding["text"]) for finding in review.findings),
            f"Waiting: {waiting}.",
            f"Next: if it is right, {approve_command(month)}, then {bill_command(month)}",
            f"If not, correct the rows or settings, then {bill_command(month)}",
        ),
        month=str(month),
    )
