"""Alerts on failed payments: each failed attempt once, many of them in one alert."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from spell_billing.alerts.alert import Alert, body, first_names
from spell_billing.core.money import format_amounts, format_money
from spell_billing.core.month import Month
from spell_billing.invoicing.payment_facts import reason_in_words
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.outbox import ALERTS, Message, count_waiting, put
from spell_billing.ledger.unpaid import FAILED, FailedPayment, failures_not_alerted

SINGLY = 5
"""Up to this many failures in a tick get an alert each; more are sent as one."""

_NAMED = 10
_AT_ONCE = 5_000
_WAITING = 20
"""While this many alerts wait for a channel, further failures wait to be sent as one."""


def alert_on_failures(ledger: Ledger) -> None:
    """Put an alert into the outbox for each failure that has none yet, and record what it is about."""
    with ledger.reading() as connection:
        full = count_waiting(connection, FAILED) >= _WAITING
        new = [] if full else failures_not_alerted(connection, _AT_ONCE)
    if new:
        groups = [[each] for each in new] if len(new) <= SINGLY else [new]
        about = [Message(_key(each), ALERTS, FAILED, {}, each.month) for each in new]
        with ledger.writing() as connection:
            alerts = (_single(group[0]) if len(group) == 1 else _summary(group) for group in groups)
            put(connection, [alert.on() for alert in alerts])
            put(connection, about, sent=True)


def _key(failure: FailedPayment) -> str:
    return f"{FAILED}:{failure.stripe_invoice_id}:{failure.failed_attempts}"


def _single(failure: FailedPayment) -> Alert:
    money = format_money(failure.due_cents, failure.currency, grouping=True)
    if failure.next_attempt_at is None:
        again = "Stripe plans no further attempt."
    else:
        again = f"Stripe's next attempt: {failure.next_attempt_at:%Y-%m-%d %H:%M} UTC."
    return Alert(
        key=_key(failure),
        kind=FAILED,
        title=f"Payment of {money} failed: {failure.user_id}, {failure.month}",
        body=body(
            f"Attempt {failure.failed_attempts} to collect invoice {failure.stripe_invoice_id} of user "
            f"{failure.user_id} for {Month.parse(failure.month).label} failed.",
            f"Reason: {reason_in_words(failure.decline_code, failure.message)}",
            again,
            f"Next: spell-billing explain --month {failure.month} --user {failure.user_id}",
            f"https://dashboard.stripe.com/invoices/{failure.stripe_invoice_id}",
        ),
        month=failure.month,
    )


def _summary(failures: Sequence[FailedPayment]) -> Alert:
    due: defaultdict[str, int] = defaultdict(int)
    for each in failures:
        due[each.currency] += each.due_cents
    reasons = Counter(reason_in_words(each.decline_code, None) for each in failures)
    planned = sum(each.next_attempt_at is not None for each in failures)
    months = sorted({each.month for each in failures})
    names = [each.user_id for each in failures[:_NAMED]]
    named = "\n".join(sorted(map(_key, failures)))
    return Alert(
        key=f"{FAILED}:{len(failures)}:{hashlib.sha256(named.encode()).hexdigest()}",
        kind=FAILED,
        title=f"{len(failures):,} payments of {format_amounts(due)} failed",
        body=body(
            f"For {', '.join(months)}. Users: {first_names(names, len(failures))}",
            *(f"{count:,} x {words}" for words, count in reasons.most_common()),
            f"Stripe will retry {planned:,} of them.",
            *(f"Next: spell-billing status --month {month}" for month in months),
        ),
        month=months[0] if len(months) == 1 else None,
    )
