"""`month_unbilled`, `month_in_review`, `users_not_invoiced`: alerts on months that wait for an operator."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg

from spell_billing.alerts.alert import Alert, bill_command, body, first_names, users
from spell_billing.core.money import format_amounts
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, REMEDIES, State
from spell_billing.invoicing.review_month import approve_command, who_must_approve
from spell_billing.ledger import waiting_users as waiting
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.month_state import Standing, closed_months
from spell_billing.ledger.outbox import NOT_INVOICED, put
from spell_billing.ledger.reviews import read_review
from spell_billing.ledger.totals import charged_by_currency, group_totals
from spell_billing.orchestration.billing_runs import last_runs, months_under_way, problem_of
from spell_billing.orchestration.resources import AlertResource, LedgerResource
from spell_billing.orchestration.schedules import tick_that_bills
from spell_billing.orchestration.unstable import sensor
from spell_billing.settings.billing import Settings

NAMED_USERS = 5
"""How many are named; `spell-billing invoices` lists them all."""


@sensor(
    "month_unbilled",
    "Alerts on a month not billed BILLING_DEADLINE_HOURS after it should have been.",
    seconds=300,
)
def month_unbilled(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SkipReason:
    """Send one alert per month, and one more when a billed month was opened again."""
    with ledger.open() as open_ledger:
        channels = alerts.open(open_ledger, context.log)
        found = channels.send_all(_overdue(open_ledger, context.instance, datetime.now(UTC)))
    return dg.SkipReason(f"{found} months are overdue." if found else "No month is overdue.")


def _overdue(ledger: Ledger, instance: dg.DagsterInstance, now: datetime) -> Iterator[Alert]:
    settings = Settings.from_environment()
    under_way = months_under_way(instance)
    for month in closed_months(ledger.months(), first=settings.first_month, now=now):
        standing = ledger.standing(month)
        due = max(tick_that_bills(month, settings.billing_cron), month.end + settings.billing_grace)
        if not standing.needs_run:
            if not standing.voided or standing.last_voided_at is None:
                # On users who wait for an operator, `users_not_invoiced` alerts.
                continue
            due = max(due, standing.last_voided_at)
        if now >= due + settings.billing_deadline:
            busy = month in under_way or ledger.is_held(month)
            yield _of_unbilled(ledger, instance, standing, due, busy=busy)


def _of_unbilled(
    ledger: Ledger, instance: dg.DagsterInstance, standing: Standing, due: datetime, *, busy: bool
) -> Alert:
    month = standing.month
    runs = last_runs(instance, month, 1)
    run = runs[0].dagster_run if runs else None
    if busy:
        groups = ledger.group_totals(month)
        invoiced = sum(group.users for group in groups if group.state in INVOICED)
        everyone = users(sum(group.users for group in groups))
        why = f"A run is still at it: {invoiced:,} of {everyone} are invoiced."
    else:
        why = f"{_what_is_left(standing)} {_how_it_ended(instance, run)}".rstrip()
    return Alert(
        key=f"month_unbilled:{month}:{standing.times_billed}",
        kind="month_unbilled",
        title=f"{month} is not billed",
        body=body(
            f"It should have been since {due:%Y-%m-%d %H:%M} UTC.",
            why,
            f"Next: {bill_command(month)}",
            run_id=run.run_id if run else None,
        ),
        month=str(month),
    )


def _what_is_left(standing: Standing) -> str:
    if standing.record is None:
        return "No draft was made."
    if not standing.started:
        return "It was drafted, and nothing was sent to Stripe."
    if standing.to_drive:
        return f"To be tried again: {users(standing.to_drive)}."
    if standing.voided:
        return f"Voided, to be billed again: {users(standing.voided)}."
    return "Every user is done; the last run died before it said so."


def _how_it_ended(instance: dg.DagsterInstance, run: dg.DagsterRun | None) -> str:
    if run is None:
        return "No run was ever launched: check that Dagster's daemon runs and the schedule is on."
    if run.status in {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}:
        return f"The last run ended early: {problem_of(instance, run.run_id).words}"
    return ""


@sensor("month_in_review", "Alerts on a month in review: what was found, and how it is approved.")
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
        # A run in progress may draft again, with other findings.
        if record.billing_started_at is not None or month in under_way or ledger.is_held(month):
            continue
        with ledger.reading() as connection:
            review = read_review(connection, month)
            if review is None or not review.needs_approval:
                continue
            groups = group_totals(connection, month)
        charged = sum(group.charged_users for group in groups)
        owed = format_amounts(charged_by_currency(groups))
        who = f"{users(charged)}, {owed}" if charged else "no bill"
        yield Alert(
            key=f"month_in_review:{month}:{review.drafts_hash}",
            kind="month_in_review",
            title=f"{month} is in review: nothing was sent",
            body=body(
                *(str(finding["text"]) for finding in review.findings),
                f"Waiting: {who}.",
                *filter(None, [who_must_approve(review)]),
                f"Next: if it is right, {approve_command(month)}, then {bill_command(month)}",
                f"If not, correct the rows or settings, then {bill_command(month)}",
            ),
            month=str(month),
        )


@sensor(NOT_INVOICED, "Alerts on users who failed, are held or parked: one alert per month and reason.")
def users_not_invoiced(
    context: dg.SensorEvaluationContext, ledger: LedgerResource, alerts: AlertResource
) -> dg.SkipReason:
    """Send what nobody was alerted on, of months whose billing started and that no run holds right now."""
    alerted = 0
    with ledger.open() as open_ledger:
        under_way = months_under_way(context.instance)
        waiting.forget_changed(open_ledger)
        with open_ledger.reading() as connection:
            months = waiting.months_to_look_at(connection)
        for month in months:
            if month not in under_way and not open_ledger.is_held(month):
                alerted += _alert_on(open_ledger, month)
        alerts.open(open_ledger, context.log).send_all(kind=NOT_INVOICED)
    return dg.SkipReason(f"Alerted on {alerted} reasons." if alerted else "No unreported users.")


def _alert_on(ledger: Ledger, month: Month) -> int:
    """Put the alerts into the outbox, and with each the bills that it is about."""
    with ledger.reading() as connection:
        groups = [
            (group, waiting.first_users(connection, group, NAMED_USERS))
            for group in waiting.not_alerted(connection, month)
        ]
    if groups:
        with ledger.writing() as connection:
            for group, named in groups:
                waiting.note_alerted(connection, group)
                put(connection, [_of_waiting(group, named).on()])
    return len(groups)


def _of_waiting(group: waiting.WaitingUsers, named: list[str]) -> Alert:
    month, what = group.month, "to be looked at" if group.states == {State.PARKED} else "without an invoice"
    return Alert(
        key=f"{NOT_INVOICED}:{month}:{group.reason}:{group.newest.isoformat()}:{group.users}",
        kind=NOT_INVOICED,
        title=f"{month}: {users(group.users)} {what}, {format_amounts(group.totals_cents)} ({group.reason})",
        body=body(
            REMEDIES[group.reason],
            f"Who: {first_names(named, group.users)}",
            f"Next: spell-billing invoices --month {month}, then {bill_command(month)}",
        ),
        month=str(month),
    )
