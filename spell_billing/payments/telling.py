"""Alerts on failed payments: each failed attempt once, many of them in one alert.

What is to be told is written down before it goes out, so that a repetition after a crash says the same under
the same key; and people count as told only when it has gone out.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.engine import Connection

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.channels import Alerts
from spell_billing.alerts.text import amounts, body, first_names
from spell_billing.core.errors import AlertError
from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.ledger.cursors import move_cursor, read_cursor
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.unpaid import FailedPayment, failures_not_told, mark_told
from spell_billing.payments.words import reason_in_words

KIND = "payment_failed"
CURSOR = "payment_alerts"
SINGLY = 5
"""Up to so many failures of a tick are told one by one, more in one alert."""

_NAMED = 10
_AT_ONCE = 5_000
_WAITING = 20
"""While so many alerts wait for a channel, further failures wait to be told together."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An alert that is to go out, and the attempts that it covers, by invoice."""

    alert: Alert
    attempts: dict[str, int]


def tell_of_failures(ledger: Ledger, alerts: Alerts) -> int:
    """Send what people do not know of yet.

    Returns:
        How many alerts went out.

    Raises:
        AlertError: the first that did not go out on every channel, after all were tried.
    """
    waiting = _write_down(ledger)
    sent, first_problem = 0, None
    for each in waiting:
        try:
            alerts.send(each.alert)
        except AlertError as problem:
            first_problem = first_problem or problem
            continue
        sent += 1
        with ledger.writing() as connection:
            mark_told(connection, each.attempts.items())
            left = [other for other in _read(connection) if other.alert.key != each.alert.key]
            _write(connection, left)
    if first_problem is not None:
        raise first_problem
    return sent


def _write_down(ledger: Ledger) -> list[_Waiting]:
    """Add alerts of new failures to those that wait; give all."""
    with ledger.reading() as connection:
        waiting = _read(connection)
        found = failures_not_told(connection, _AT_ONCE) if len(waiting) < _WAITING else []
    known = {(invoice_id, attempt) for each in waiting for invoice_id, attempt in each.attempts.items()}
    new = [each for each in found if (each.stripe_invoice_id, each.failed_attempts) not in known]
    if not new:
        return waiting
    groups = [[each] for each in new] if len(new) <= SINGLY else [new]
    waiting += [_Waiting(_alert(group), _attempts(group)) for group in groups]
    with ledger.writing() as connection:
        _write(connection, waiting)
    return waiting


def _attempts(failures: Sequence[FailedPayment]) -> dict[str, int]:
    return {each.stripe_invoice_id: each.failed_attempts for each in failures}


def _alert(failures: Sequence[FailedPayment]) -> Alert:
    return _single(failures[0]) if len(failures) == 1 else _summary(failures)


def _single(failure: FailedPayment) -> Alert:
    money = format_money(failure.due_cents, failure.currency, grouping=True)
    if failure.next_attempt_at is None:
        again = "Stripe plans no further attempt."
    else:
        again = f"Stripe's next attempt: {failure.next_attempt_at:%Y-%m-%d %H:%M} UTC."
    return Alert(
        key=f"{KIND}:{failure.stripe_invoice_id}:{failure.failed_attempts}",
        kind=KIND,
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
    named = "\n".join(sorted(f"{each.stripe_invoice_id}:{each.failed_attempts}" for each in failures))
    return Alert(
        key=f"{KIND}:{len(failures)}:{hashlib.sha256(named.encode()).hexdigest()}",
        kind=KIND,
        title=f"{len(failures):,} payments of {amounts(due)} failed",
        body=body(
            f"For {', '.join(months)}. Users: {first_names(names, len(failures))}",
            *(f"{count:,} x {words}" for words, count in reasons.most_common()),
            f"Stripe tries {planned:,} of them again by itself.",
            *(f"Next: spell-billing status --month {month}" for month in months),
        ),
        month=months[0] if len(months) == 1 else None,
    )


def _read(connection: Connection) -> list[_Waiting]:
    cursor = read_cursor(connection, CURSOR)
    rows: list[dict[str, Any]] = json.loads(cursor.value) if cursor else []
    return [_Waiting(Alert(**row["alert"]), row["attempts"]) for row in rows]


def _write(connection: Connection, waiting: Sequence[_Waiting]) -> None:
    move_cursor(connection, CURSOR, json.dumps([asdict(each) for each in waiting]))
