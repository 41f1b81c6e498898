"""Fills the outbox with events and empties it: bounded, each URL on its own, each user's events in order."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from pydantic import SecretStr
from sqlalchemy.engine import Connection

from spell_billing.alerts.alert import Alert
from spell_billing.ledger import outbox
from spell_billing.ledger.cursors import drop_cursor, move_cursor, read_cursor
from spell_billing.ledger.feed import LedgerBusyError, fill, final_id
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.outbox import EVENT, Message, put
from spell_billing.ledger.settling import mark_overdue
from spell_billing.settings.addresses import LOOPBACK

KIND = "events_out"
"""The kind of alert."""
ALARM_AFTER = timedelta(hours=1)
"""A receiver may be away for a moment; one that stays away raises an alert."""

EVENTS_AT_ONCE = 5_000
"""Put into the outbox for a URL in one round."""
READ_AT_ONCE = 1_000
"""Read from the outbox for a URL in one step."""
SECONDS_AT_ONCE = 30.0
"""No request begins later in a round; a sensor's tick must end within 60 seconds."""
GIVE_UP_AFTER = timedelta(days=3)

_SIDE_BY_SIDE = 10
"""Requests to one URL at a time, each for another user."""
_FEWEST_TRIES = 10
"""An event is not given up before: the daemon itself may have been down for days."""

SIGNATURE = "Spell-Signature"
TIMEOUT_SECONDS = 10.0
"""Of one request, from connecting to the first bytes of the answer."""

_DIGITS = 16
_TAKEN = range(200, 300)


def signature(secret: SecretStr, body: bytes, unix_seconds: int) -> str:
    """Return the header that proves who sent a body and when, in Stripe's scheme.

    https://docs.stripe.com/webhooks#verify-manually: the platform can check it with Stripe's own libraries.
    """
    signed = b"%d.%s" % (unix_seconds, body)
    digest = hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256).hexdigest()
    return f"t={unix_seconds},v1={digest}"


@dataclass(frozen=True)
class Receiver:
    """One of EVENT_URLS. Its address may hold a secret, and appears in no message."""

    url: SecretStr

    @cached_property
    def channel(self) -> str:
        """The channel in the outbox, and the name of the cursor that says how far it was filled."""
        return f"{EVENT}{hashlib.sha256(self.url.get_secret_value().encode()).hexdigest()[:_DIGITS]}"

    def __str__(self) -> str:
        """Name it for operators."""
        return f"{urlsplit(self.url.get_secret_value()).hostname} #{self.channel.removeprefix(EVENT)[:8]}"

    @cached_property
    def proxy(self) -> str | None:
        """The proxy that the environment names for the address; none towards this machine."""
        parts = urlsplit(self.url.get_secret_value())
        host = str(parts.hostname)
        return None if host in LOOPBACK or proxy_bypass(host) else getproxies().get(parts.scheme)

    async def post(self, session: aiohttp.ClientSession, body: bytes, signed: str) -> str | None:
        """Send a body, once; return None when it was taken, else what went wrong, without secrets."""
        url = self.url.get_secret_value()
        headers = {"Content-Type": "application/json", "User-Agent": "spell-billing", SIGNATURE: signed}
        try:
            # A redirect is not followed: it would lead the event where nobody set it to go.
            async with session.post(
                url, data=body, headers=headers, proxy=self.proxy, allow_redirects=False
            ) as response:
                return None if response.status in _TAKEN else f"it answered with status {response.status}"
        except TimeoutError:
            return "it did not answer in time"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Their texts have addresses in them, and a proxy's may have its login.
            return f"it could not be reached ({type(error).__name__})"


@dataclass(slots=True)
class Sent:
    """What one round did for one URL."""

    added: int = 0
    taken: int = 0
    delayed: int = 0
    given_up: int = 0
    problem: str | None = None

    def __str__(self) -> str:
        rest = {"delayed": self.delayed, "given up": self.given_up}
        parts = [f"{self.added} added", f"{self.taken} taken"]
        parts += [f"{number} {what}" for what, number in rest.items() if number]
        return ", ".join(parts) + (f" ({self.problem})" if self.problem else "")


@dataclass(slots=True)
class Round:
    """What one round did: bills that became overdue, and what each URL got."""

    overdue: int = 0
    busy: bool = False
    sent: dict[str, Sent] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"bills that became overdue: {self.overdue}"] if self.overdue else []
        parts += ["the ledger is being written: nothing was added"] if self.busy else []
        return "; ".join([*parts, *(f"{name}: {sent}" for name, sent in self.sent.items())])


@dataclass
class EventDelivery:
    """Delivers what is due.

    A crash between a receiver's answer and its record sends up to ten events again, with the same ids.

    Attributes:
        receivers: Where events go; without any, bills that are overdue are marked all the same.
        secret: Signs events; None without receivers.
        overdue_after: How long after its finalization, or its due date, an unpaid invoice is overdue.
    """

    ledger: Ledger
    receivers: Sequence[Receiver]
    secret: SecretStr | None
    overdue_after: timedelta
    _: KW_ONLY
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def round(self, *, seconds: float = SECONDS_AT_ONCE, timeout_seconds: float = TIMEOUT_SECONDS) -> Round:
        """Mark overdue bills, put new events into the outbox, and send what is due.

        After `seconds` no further request is begun; one lasts `timeout_seconds` at most.

        Raises:
            MonthLockedError: when another process is at it.
        """
        with self.ledger.exclusive("events", wait_seconds=0):
            done = Round(sent={str(each): Sent() for each in self.receivers})
            done.overdue = self.ledger.write(mark_overdue, self.overdue_after, self.now())
            if self.receivers:
                self._fill(done)
                asyncio.run(self._deliver(done, time.monotonic() + seconds, timeout_seconds))
        return done

    def _fill(self, done: Round) -> None:
        try:
            until = self.ledger.read(final_id)
        except LedgerBusyError:
            done.busy = True
            return
        with self.ledger.writing() as connection:
            channels = [each.channel for each in self.receivers]
            added = fill(connection, channels, until=until, now=self.now(), limit=EVENTS_AT_ONCE)
        for each in self.receivers:
            done.sent[str(each)].added = added[each.channel]

    async def _deliver(self, done: Round, deadline: float, timeout_seconds: float) -> None:
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        # Each URL has connections of its own, so that one that hangs takes none from the others.
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await asyncio.gather(
                *(self._empty(session, each, done.sent[str(each)], deadline) for each in self.receivers)
            )
        with self.ledger.writing() as connection:
            for receiver in self.receivers:
                if outbox.is_failing(connection, receiver.channel):
                    _report_stuck(connection, receiver, done.sent[str(receiver)].problem, self.now())
                else:
                    # The next outage is alerted on again.
                    drop_cursor(connection, _cursor_name(receiver))

    async def _empty(
        self, session: aiohttp.ClientSession, receiver: Receiver, sent: Sent, deadline: float
    ) -> None:
        while True:
            messages = self.ledger.read(outbox.first_due, receiver.channel, self.now(), limit=READ_AT_ONCE)
            if not messages:
                return
            for start in range(0, len(messages), _SIDE_BY_SIDE):
                if time.monotonic() >= deadline:
                    return
                some = messages[start : start + _SIDE_BY_SIDE]
                problems = await asyncio.gather(*(self._post(session, receiver, each) for each in some))
                self._record(receiver, list(zip(some, problems, strict=True)), sent)
                if all(problems):
                    # It takes nothing now. What was not tried keeps its place and its tries.
                    return

    async def _post(self, session: aiohttp.ClientSession, receiver: Receiver, message: Message) -> str | None:
        assert self.secret is not None, "receivers come with a secret"  # noqa: S101 - for the type checker
        body = orjson.dumps(message.payload)
        return await receiver.post(session, body, signature(self.secret, body, int(self.now().timestamp())))

    def _record(self, receiver: Receiver, outcomes: Sequence[tuple[Message, str | None]], sent: Sent) -> None:
        now, lost = self.now(), 0
        with self.ledger.writing() as connection:
            for message, problem in outcomes:
                if problem is None:
                    outbox.mark_sent(connection, message, now)
                    sent.taken += 1
                    continue
                sent.problem, sent.delayed = problem, sent.delayed + 1
                _outage_since(connection, receiver, now)
                this, tries = outbox.is_message(message), message.tries + 1
                outbox.mark_tried(connection, this, problem, now + outbox.pause(tries))
                if tries >= _FEWEST_TRIES and now - message.created_at >= GIVE_UP_AFTER:
                    outbox.update(connection, this, given_up_at=now)
                    lost += 1
            if lost and all(problem for _, problem in outcomes):
                # With them goes what has waited as long behind events that the URL did not take.
                lost += outbox.give_up_older(connection, receiver.channel, now - GIVE_UP_AFTER, now)
            if lost:
                sent.given_up += lost
                _report_lost(connection, receiver, sent.problem, now)


def _outage_since(connection: Connection, receiver: Receiver, now: datetime) -> datetime:
    """Return when the outage of a URL began, and start one if there is none.

    It lasts from the first event that was not taken until none that was tried waits any more.
    """
    cursor = read_cursor(connection, _cursor_name(receiver))
    if cursor is not None:
        return datetime.fromisoformat(cursor.value)
    move_cursor(connection, _cursor_name(receiver), now.isoformat())
    return now


def _report_stuck(connection: Connection, receiver: Receiver, problem: str | None, now: datetime) -> None:
    """Put an alert into the outbox, once per outage, when a URL has not taken events for an hour."""
    since = _outage_since(connection, receiver, now)
    if now - since >= ALARM_AFTER:
        text = (
            f"{receiver} has not taken some or all events since {since:%Y-%m-%d %H:%M} UTC"
            f"{f': {problem}' if problem else ''}. They are retried automatically for three days.\n"
            "Next: see docs/events.md; check EVENT_URLS and the receiver's log."
        )
        key = f"{KIND}:stuck:{receiver.channel}:{since.isoformat()}"
        put(connection, [Alert(key, KIND, "Events do not reach the platform", text).on()])


def _report_lost(connection: Connection, receiver: Receiver, problem: str | None, now: datetime) -> None:
    """Put an alert into the outbox, once per outage, when events were given up."""
    since = _outage_since(connection, receiver, now)
    text = (
        f"{receiver} has not taken events for three days{f': {problem}' if problem else ''}. The oldest "
        "are no longer retried, and newer ones will follow.\n"
        "Next: correct EVENT_URLS or the receiver; then let the platform catch up with GET /v1/changes "
        f"(docs/events.md). It lacks events since {since:%Y-%m-%d %H:%M} UTC."
    )
    key = f"{KIND}:lost:{receiver.channel}:{since.isoformat()}"
    put(connection, [Alert(key, KIND, "Events for the platform are given up", text).on()])


def _cursor_name(receiver: Receiver) -> str:
    return f"event_outage:{receiver.channel.removeprefix(EVENT)}"
