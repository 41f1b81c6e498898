"""One tick of following payments: read events, handle them, catch up, dun, park, and alert.

Every step leaves the ledger whole, and each tick does all of them again: whatever a crash cuts off is done by
the next. A step that needs Stripe may fail; what operators must know is sent all the same.
"""

import asyncio
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta

from spell_billing.alerts.alert import Alert, body
from spell_billing.alerts.channels import Alerts
from spell_billing.core.errors import AlertError, SpellBillingError, StripeSilentError
from spell_billing.invoicing.gateway import Connect
from spell_billing.ledger.credit_notes import MONEY_BACK
from spell_billing.ledger.cursors import read_cursor
from spell_billing.ledger.events import TO_LOOK_AT, events_kept, forget_events
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor, Bill
from spell_billing.ledger.settling import settle
from spell_billing.ledger.unpaid import FAILED
from spell_billing.payments import catch_up, stripe_events
from spell_billing.payments.dunning import dun
from spell_billing.payments.failure_alerts import alert_on_failures
from spell_billing.payments.handler import SET_ASIDE_KIND, handle_batch
from spell_billing.payments.money_back import look_again
from spell_billing.payments.places import Budget
from spell_billing.payments.reasons import look_up_reasons
from spell_billing.payments.voids import follow_revisions, park_voided
from spell_billing.stripe_api.problems import StripeProblem

ACTOR = Actor("stripe events")
TICK_SECONDS = 30.0
"""After that no further request begins; Dagster gives a tick 60 seconds."""

STRIPE_SECONDS = 45.0
"""A request that hangs is given up then."""

EVENT_PAGES = 30
INVOICE_REQUESTS = 50
REVISIONS = 20
LOOKS = 100
LIST_PAGES = 10
REASONS = 50
DUNNING_STEPS = 10
VOIDED_BILLS = 500
_BATCH = 500
_BATCHES = 20

_KEEP_EVENTS = timedelta(days=60)
_UNREAD_FOR = timedelta(hours=6)
"""When Stripe could not be read for this long, an alert goes out."""


@dataclass(slots=True)
class Followed:
    """What one tick did, as counts."""

    events_read: int = 0
    events_handled: int = 0
    revisions_followed: int = 0
    looked_at: int = 0
    invoices_read: int = 0
    reasons_looked_up: int = 0
    dunning_steps: int = 0
    dunning_paid: int = 0
    bills_settled: int = 0
    bills_parked: int = 0
    voids_deferred: int = 0
    alerts_sent: int = 0
    more: list[str] = field(default_factory=list)

    @property
    def in_words(self) -> str:
        """Say what was done, and what is left for the next tick."""
        counts = [
            f"{getattr(self, each.name):,} {each.name.replace('_', ' ')}"
            for each in fields(self)
            if each.name != "more" and getattr(self, each.name)
        ]
        done = ", ".join(counts) or "nothing new"
        return f"{done}. The next tick continues with {' and '.join(self.more)}." if self.more else f"{done}."


def follow_payments(
    ledger: Ledger, connect: Connect, alerts: Alerts, *, dunning_days: tuple[int, ...]
) -> Followed:
    """Do one tick. One at a time: the caller holds `ledger.exclusive("payments")`.

    `dunning_days` are the steps of our own dunning; empty when it is off.

    Raises:
        SpellBillingError: when Stripe did not answer, refuses the account, or an alert did not go out. All
            else was done, and the next tick does the rest.
    """
    result = Followed()
    problem: SpellBillingError | None = None
    try:
        asyncio.run(_ask_stripe(ledger, connect, result, dunning_days))
    except SpellBillingError as error:
        problem = error
    except (StripeProblem, TimeoutError) as error:
        silent = isinstance(error, TimeoutError)
        why = f"no answer within {STRIPE_SECONDS:.0f} seconds" if silent else str(error)
        problem = StripeSilentError(
            f"Stripe's events could not be read: {why}.",
            remedy="Check the network and Stripe's status page; the next tick tries again.",
        )
    # What needs no answer: the inbox, and bills that were not ready for their news before.
    _handle(ledger, result)
    with ledger.writing() as connection:
        result.bills_settled += settle(connection)
        forget_events(connection, handled_before=datetime.now(UTC) - _KEEP_EVENTS)
    voids = park_voided(ledger, ACTOR, VOIDED_BILLS)
    result.bills_parked, result.voids_deferred = voids.parked, voids.deferred
    others = [_unfinished_void(each) for each in voids.unfinished]
    if problem is not None:
        others += _unread(ledger, problem)
    alert_on_failures(ledger)
    for found, kind in ((others, FAILED), ((), MONEY_BACK), ((), SET_ASIDE_KIND)):
        try:
            alerts.send_all(found, kind=kind)
        except AlertError as unsent:
            problem = problem or unsent
    result.alerts_sent = len(alerts.sent)
    if problem:
        raise problem
    return result


async def _ask_stripe(
    ledger: Ledger, connect: Connect, result: Followed, dunning_days: tuple[int, ...]
) -> None:
    budget = Budget(TICK_SECONDS)
    async with asyncio.timeout(STRIPE_SECONDS), connect() as gateway:
        now = datetime.now(UTC)
        with ledger.writing() as connection:
            lost = stripe_events.begin_if_lost(connection, now)
            catch_up.begin_if_due(connection, now, lost=lost)
        result.events_read, complete = await stripe_events.read_events(
            ledger, gateway, pages=EVENT_PAGES, budget=budget
        )
        if not complete:
            result.more.append("older events")
        _handle(ledger, result)
        result.revisions_followed = await follow_revisions(ledger, gateway, ACTOR, REVISIONS)
        result.looked_at = await look_again(ledger, gateway, LOOKS, budget)
        result.invoices_read = await catch_up.read_invoices(
            ledger, gateway, requests=INVOICE_REQUESTS, budget=budget
        )
        result.looked_at += await catch_up.read_lists(ledger, gateway, pages=LIST_PAGES, budget=budget)
        if ledger.read(events_kept, TO_LOOK_AT, 1):
            result.more.append("invoices to look at again")
        reading = ledger.read(catch_up.read_reading)
        if reading is not None and reading.months:
            result.more.append(f"the invoices of {reading.months[0]}")
        if ledger.read(catch_up.lists_more):
            result.more.append("older charges, credit notes and unpaid invoices")
        if budget.in_time:
            result.reasons_looked_up = await look_up_reasons(ledger, gateway, REASONS)
        result.dunning_steps, result.dunning_paid = await dun(
            ledger, gateway, dunning_days, limit=DUNNING_STEPS, budget=budget
        )


def _handle(ledger: Ledger, result: Followed) -> None:
    for _ in range(_BATCHES):
        handled = handle_batch(ledger, _BATCH)
        result.events_handled += handled.events
        result.bills_settled += handled.settled
        if not handled.waiting:
            return
    result.more.append("events of the inbox")


def _unfinished_void(voided: Bill) -> Alert:
    command = f"spell-billing void --month {voided.month} --user {voided.user_id} --reason ..."
    return Alert(
        key=f"void_unfinished:{voided.stripe_invoice_id}",
        kind="void_unfinished",
        title=f"A void did not complete: {voided.user_id}, {voided.month}",
        body=body(
            f"Stripe has voided invoice {voided.stripe_invoice_id}, but the command stopped before "
            "recording it in the ledger. The user is not billed again until it is recorded.",
            f"Next: {command}",
        ),
        month=voided.month,
    )


def _unread(ledger: Ledger, problem: SpellBillingError) -> list[Alert]:
    """Return the alert for payments that could not be followed for hours; one per outage."""
    cursor = ledger.read(read_cursor, stripe_events.CURSOR)
    if cursor is None or datetime.now(UTC) - cursor.moved_at < _UNREAD_FOR:
        return []
    return [
        Alert(
            key=f"payments_unread:{cursor.moved_at.isoformat()}",
            kind="payments_unread",
            title="Payments are not followed",
            body=body(
                f"Stripe's events could not be read since {cursor.moved_at:%Y-%m-%d %H:%M} UTC.",
                problem.message,
                f"Next: {problem.remedy}",
            ),
        )
    ]
