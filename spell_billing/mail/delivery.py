"""Empties the outbox: bounded work, each mail recorded as soon as the server has taken it."""

import ssl
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from spell_billing.ledger import outbox
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.outbox import GivenUp, Waiting
from spell_billing.ledger.rows import Bill
from spell_billing.mail.letters import Letters
from spell_billing.mail.server import MailConnection, MailDelayedError, MailRefusedError, ServerUnusableError
from spell_billing.mail.settings import MailServer, checked_address

MAILS_AT_ONCE = 1_000
SECONDS_AT_ONCE = 35.0
"""A sensor's tick must end within 60 seconds."""
_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=2)
_NAMED = 5

Addresses = Callable[[Collection[str]], Mapping[str, str | None]]
"""Gives the addresses of users, by user id."""


@dataclass(slots=True)
class Delivered:
    """What one round did.

    Attributes:
        added: Mails that were put into the outbox.
        sent: Mails that the server took.
        delayed: Mails that it did not take for now.
        given_up: The first users whose mail was given up, by reason.
        given_up_count: All of them, by reason.
        trouble: What the server said when it could not be used; None when it could.
        waiting_since: Since when the first of what was due had been waiting.
    """

    added: int = 0
    sent: int = 0
    delayed: int = 0
    given_up: dict[GivenUp, list[str]] = field(default_factory=dict)
    given_up_count: dict[GivenUp, int] = field(default_factory=dict)
    trouble: str | None = None
    waiting_since: datetime | None = None

    def count_given_up(self, mail: Waiting, reason: GivenUp) -> None:
        """Count a mail that was given up, and name its user if it is among the first."""
        self.given_up_count[reason] = self.given_up_count.get(reason, 0) + 1
        named = self.given_up.setdefault(reason, [])
        if len(named) < _NAMED:
            named.append(mail.user_id)

    def __str__(self) -> str:
        parts = [f"{self.added} added", f"{self.sent} sent"]
        parts += [f"{self.delayed} delayed"] if self.delayed else []
        for reason, count in self.given_up_count.items():
            more = ", ..." if count > _NAMED else ""
            parts.append(f"{count} given up ({reason}: {', '.join(self.given_up[reason])}{more})")
        parts += [f"the mail server cannot be used ({self.trouble})"] if self.trouble else []
        return "mail to users: " + "; ".join(parts)


@dataclass(frozen=True, slots=True)
class _Ready:
    mail: Waiting
    bill: Bill
    address: str


class Delivery:
    """Sends what is due.

    A crash between the server's answer and its record sends that one mail again, with the same Message-ID.

    Args:
        ledger: Holds the outbox.
        server: Where mail is handed in.
        letters: Writes them.
        addresses: Asked once a round, so that the ledger keeps none.
        context: Whom to trust; None: the system's certificates.
        now: The present, aware.
    """

    def __init__(
        self,
        ledger: Ledger,
        server: MailServer,
        letters: Letters,
        addresses: Addresses,
        *,
        context: ssl.SSLContext | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ledger = ledger
        self._server = server
        self._letters = letters
        self._addresses = addresses
        self._context = context
        self._now = now

    def round(self, *, limit: int = MAILS_AT_ONCE, seconds: float = SECONDS_AT_ONCE) -> Delivered:
        """Fill the outbox from the ledger and send what is due, over one connection.

        Args:
            limit: The most mails of one round.
            seconds: After this time no further mail is begun.

        Raises:
            MonthLockedError: when another process is sending.
            SpellBillingError: when addresses cannot be read, or a template not filled in; nothing is lost.
        """
        delivered = Delivered()
        with self._ledger.exclusive("mail", wait_seconds=0):
            delivered.added = self._fill()
            with self._ledger.reading() as connection:
                mails = outbox.due(connection, self._now(), limit=limit)
            if mails:
                delivered.waiting_since = min(mail.waiting_since for mail in mails)
                self._send(self._addressed(mails, delivered), delivered, time.monotonic() + seconds)
        return delivered

    def _fill(self) -> int:
        now = self._now()
        with self._ledger.reading() as connection:
            news = outbox.has_news(connection, now)
        with self._ledger.writing() as connection:
            added = outbox.fill(connection, now) if news else 0
            outbox.note_look(connection, now)
        return added

    def _addressed(self, mails: list[Waiting], delivered: Delivered) -> list[_Ready]:
        addresses = self._addresses({mail.user_id for mail in mails})
        ready: list[_Ready] = []
        with self._ledger.writing() as connection:
            for mail in mails:
                found = _ready(mail, addresses.get(mail.user_id))
                if isinstance(found, _Ready):
                    ready.append(found)
                else:
                    outbox.mark_given_up(connection, mail.id, found, "", self._now())
                    delivered.count_given_up(mail, found)
        return ready

    def _send(self, ready: list[_Ready], delivered: Delivered, deadline: float) -> None:
        if not ready:
            return
        try:
            with MailConnection(self._server, self._context) as connection:
                for one in ready:
                    if time.monotonic() >= deadline or not self._send_one(connection, one, delivered):
                        return
        except ServerUnusableError as error:
            delivered.trouble, now = str(error), self._now()
            next_try_at = now + pause(ready[0].mail.tries + 1)
            with self._ledger.writing() as writing:
                outbox.mark_all_due_tried(writing, str(error), now, next_try_at)

    def _send_one(self, connection: MailConnection, ready: _Ready, delivered: Delivered) -> bool:
        """Send one mail and record it; False when the connection is of no use any more."""
        mail = ready.mail
        letter = self._letters.write(mail.template, ready.bill, mail.payment)
        message = self._letters.message(letter, ready.address, mail.key, self._now())
        try:
            connection.send(message)
        except MailRefusedError as error:
            delivered.count_given_up(mail, GivenUp.REFUSED)
            with self._ledger.writing() as writing:
                outbox.mark_given_up(writing, mail.id, GivenUp.REFUSED, str(error), self._now())
        except (MailDelayedError, ServerUnusableError) as error:
            # Only this mail waits: one that always breaks the connection must not hold up those behind it.
            delivered.delayed += 1
            with self._ledger.writing() as writing:
                outbox.mark_tried(writing, mail.id, str(error), self._now() + pause(mail.tries + 1))
            if isinstance(error, ServerUnusableError):
                delivered.trouble = str(error)
                return False
        else:
            delivered.sent += 1
            with self._ledger.writing() as writing:
                outbox.mark_sent(writing, mail.id, self._now())
        return True


def pause(tries: int) -> timedelta:
    """Return the pause after so many tries in vain: a minute, doubled each time, up to two hours."""
    doublings = min(tries - 1, 20)
    return min(_FIRST_PAUSE * (1 << doublings), _LONGEST_PAUSE)


def _ready(mail: Waiting, address: str | None) -> _Ready | GivenUp:
    if mail.bill is None or mail.outdated:
        return GivenUp.OUTDATED
    if not address:
        return GivenUp.NO_ADDRESS
    try:
        return _Ready(mail, mail.bill, checked_address(address))
    except ValueError:
        return GivenUp.BAD_ADDRESS
