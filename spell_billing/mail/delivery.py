"""Empties the outbox: bounded work, each mail recorded as soon as the server has taken it."""

import smtplib
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime

from sqlalchemy.engine import Connection

from spell_billing.alerts.alert import first_names
from spell_billing.core.month import Month
from spell_billing.ledger import outbox
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.mails import GivenUp, Mail, Template, due_mails, fill
from spell_billing.ledger.outbox import Message
from spell_billing.mail.letters import Letter, Letters
from spell_billing.mail.server import (
    MailDelayedError,
    MailRefusedError,
    ServerUnusableError,
    connected,
    send,
)
from spell_billing.mail.settings import MailServer, checked_address

MAILS_AT_ONCE = 1_000
SECONDS_AT_ONCE = 35.0
"""A sensor's tick must end within 60 seconds."""
_NAMED = 5

Addresses = Callable[[Collection[str]], Mapping[str, str | None]]
"""Gives the addresses of users, by user id."""
_Ready = tuple[Mail, str]
"""A mail with the user's address."""


@dataclass(slots=True)
class Delivered:
    """What one round did, in mails; `given_up` has their users by reason.

    Attributes:
        trouble: What the server said when it could not be used; None when it could.
        waiting_since: Since when the first of what was due had been waiting.
    """

    added: int = 0
    sent: int = 0
    delayed: int = 0
    given_up: defaultdict[GivenUp, list[str]] = field(default_factory=lambda: defaultdict(list))
    trouble: str | None = None
    waiting_since: datetime | None = None

    def __str__(self) -> str:
        parts = [f"{self.added} added", f"{self.sent} sent"]
        parts += [f"{self.delayed} delayed"] if self.delayed else []
        parts += [
            f"{len(users)} given up ({reason}: {first_names(users[:_NAMED], len(users))})"
            for reason, users in self.given_up.items()
        ]
        parts += [f"the mail server cannot be used ({self.trouble})"] if self.trouble else []
        return "mail to users: " + "; ".join(parts)


@dataclass
class Delivery:
    """Sends what is due.

    A crash between the server's answer and its record sends that one mail again, with the same Message-ID.

    Attributes:
        addresses: Asked once a round, so that the ledger keeps none.
        context: Whom to trust; None: the system's certificates.
    """

    ledger: Ledger
    server: MailServer
    letters: Letters
    addresses: Addresses
    _: KW_ONLY
    context: ssl.SSLContext | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def round(self, *, limit: int = MAILS_AT_ONCE, seconds: float = SECONDS_AT_ONCE) -> Delivered:
        """Fill the outbox from the ledger and send what is due, over one connection.

        At most `limit` mails; after `seconds` no further one is begun.

        Raises:
            MonthLockedError: when another process is sending.
            SpellBillingError: when addresses cannot be read, or a template not filled in; nothing is lost.
        """
        delivered = Delivered()
        with self.ledger.exclusive("mail", wait_seconds=0):
            delivered.added = self.ledger.write(fill, self.now())
            mails = self.ledger.read(due_mails, self.now(), limit=limit)
            if mails:
                delivered.waiting_since = min(mail.message.created_at for mail in mails)
                self._send(self._addressed(mails, delivered), delivered, time.monotonic() + seconds)
        return delivered

    def _addressed(self, mails: list[Mail], delivered: Delivered) -> list[_Ready]:
        addresses = self.addresses({str(mail.message.user_id) for mail in mails})
        found = [(mail, _ready(mail, addresses.get(str(mail.message.user_id)))) for mail in mails]
        with self.ledger.writing() as connection:
            for mail, ready in found:
                if isinstance(ready, GivenUp):
                    self._give_up(connection, mail.message, ready)
                    delivered.given_up[ready].append(str(mail.message.user_id))
        return [ready for _, ready in found if not isinstance(ready, GivenUp)]

    def _give_up(self, connection: Connection, message: Message, error: str) -> None:
        outbox.update(connection, outbox.is_message(message), given_up_at=self.now(), error=error)

    def _send(self, ready: list[_Ready], delivered: Delivered, deadline: float) -> None:
        if not ready:
            return
        try:
            with connected(self.server, self.context) as smtp:
                for each in ready:
                    if time.monotonic() >= deadline or not self._send_one(smtp, each, delivered):
                        return
        except ServerUnusableError as error:
            delivered.trouble, now = str(error), self.now()
            again = now + outbox.pause(ready[0][0].message.tries + 1)
            self.ledger.write(outbox.mark_tried, outbox.is_due([outbox.MAIL], now), str(error), again)

    def _letter(self, mail: Mail) -> Letter:
        if mail.reached is not None:
            return self.letters.write_reached(mail.reached, Month.parse(str(mail.message.month)))
        assert mail.bill is not None, "an outdated mail is not sent"  # noqa: S101 - for the type checker
        return self.letters.write(Template(mail.message.kind), mail.bill, mail.payment, mail.given_back)

    def _send_one(self, smtp: smtplib.SMTP, ready: _Ready, delivered: Delivered) -> bool:
        """Send one mail and record it; False when the connection is of no use any more."""
        mail, address = ready
        row = mail.message
        letter = self._letter(mail)
        problem: Exception | None = None
        try:
            send(smtp, self.letters.message(letter, address, row.key, self.now()))
        except (MailRefusedError, MailDelayedError, ServerUnusableError) as error:
            problem = error
        with self.ledger.writing() as writing:
            if problem is None:
                outbox.mark_sent(writing, row, self.now())
                delivered.sent += 1
            elif isinstance(problem, MailRefusedError):
                self._give_up(writing, row, f"{GivenUp.REFUSED}: {problem}")
                delivered.given_up[GivenUp.REFUSED].append(str(row.user_id))
            else:
                # Only this mail waits: one that breaks the connection must not hold up those behind it.
                again = self.now() + outbox.pause(row.tries + 1)
                outbox.mark_tried(writing, outbox.is_message(row), str(problem), again)
                delivered.delayed += 1
        if isinstance(problem, ServerUnusableError):
            delivered.trouble = str(problem)
        return delivered.trouble is None


def _ready(mail: Mail, address: str | None) -> _Ready | GivenUp:
    if mail.outdated:
        return GivenUp.OUTDATED
    if not address:
        return GivenUp.NO_ADDRESS
    try:
        return mail, checked_address(address)
    except ValueError:
        return GivenUp.BAD_ADDRESS
