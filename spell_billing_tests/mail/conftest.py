"""A ledger with finalized invoices on each database, and a real SMTP server that fails on demand."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from pydantic import SecretStr

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.ledger.credit_notes import CreditKind, CreditNote, write_credit_note
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.payments import Payment, keep_payments
from spell_billing.ledger.rows import Actor, Bill, Change
from spell_billing.ledger.schema import outbox
from spell_billing.mail.delivery import Delivered, Delivery
from spell_billing.mail.letters import Letters
from spell_billing.mail.settings import MailServer
from spell_billing.settings.databases import DatabaseUrl, parse_database_url

OCTOBER = Month(2026, 10)
CERTIFICATE = Path(__file__).with_name("localhost.pem")
PASSWORD = "Vertraulich71"


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "MAIL_URL",
        "MAIL_FROM",
        "MAIL_TEMPLATES",
        "DATABASE_URL",
        "USAGE_DATABASE_URL",
        "ALERT_URLS",
    ):
        monkeypatch.delenv(name, raising=False)


class Receiver:
    """An SMTP server on this machine. Keeps what it took, and answers each recipient or mail as told."""

    def __init__(self) -> None:
        self.taken: list[EmailMessage] = []
        self.sessions = 0
        self.answers_to_address: dict[str, str] = {}
        self.answers_to_data: list[str] = []
        self.drop_after_data = 0
        self.logins: list[bytes] = []
        self.encrypted: list[bool] = []

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        answer = self.answers_to_address.get(address, "250 OK")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        answer = self.answers_to_data.pop(0) if self.answers_to_data else "250 OK"
        if answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            message = message_from_bytes(envelope.content, policy=default)
            assert isinstance(message, EmailMessage)
            assert [address.addr_spec for address in message["To"].addresses] == envelope.rcpt_tos
            self.taken.append(message)
            assert server.transport is not None
            self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        if self.drop_after_data:
            self.drop_after_data -= 1
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
        return answer

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _way: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login)
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)

    @property
    def recipients(self) -> list[str]:
        return [str(message["To"]) for message in self.taken]

    @contextmanager
    def running(self, *, tls: str = "none", login: bool = False, port: int = 0) -> Iterator[MailServer]:
        """Serve; give where, as settings would name it."""
        loop = asyncio.new_event_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        options: dict[str, Any] = {"hostname": "localhost", "loop": loop}
        if tls == "start":
            options |= {"tls_context": context, "require_starttls": True}
        if login:
            options |= {"authenticator": self.authenticate, "auth_require_tls": False}

        def connected() -> SMTP:
            self.sessions += 1
            return SMTP(self, **options)

        server = loop.run_until_complete(
            loop.create_server(
                connected,
                "127.0.0.1",
                port,
                ssl=context if tls == "at_once" else None,
            )
        )
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            user = "billing" if login else None
            port = server.sockets[0].getsockname()[1]
            yield MailServer("127.0.0.1", port, tls, user, SecretStr(PASSWORD if login else ""))
        finally:
            loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            for task in asyncio.all_tasks(loop):
                task.cancel()
                loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def mail_server(receiver: Receiver) -> Iterator[MailServer]:
    with receiver.running() as server:
        yield server


@pytest.fixture
def trust() -> ssl.SSLContext:
    """Trust the test server's certificate, and no other."""
    return ssl.create_default_context(cafile=str(CERTIFICATE))


@pytest.fixture
def url(database_url: str) -> DatabaseUrl:
    return parse_database_url(database_url, setting="DATABASE_URL")


@pytest.fixture
def ledger(url: DatabaseUrl) -> Iterator[Ledger]:
    with Ledger(url) as opened:
        yield opened


@dataclass
class Office:
    """Bills users, hears of payments, and sends mail; its clock moves when told."""

    ledger: Ledger
    addresses: dict[str, str | None] = field(default_factory=dict)
    now: datetime = datetime(2026, 11, 1, 1, tzinfo=UTC)
    letters: Letters = field(
        default_factory=lambda: Letters(
            None, Address(display_name="Spell Platform", addr_spec="billing@example.com")
        )
    )

    def invoice(self, *users: str, month: Month = OCTOBER, cents: int = 1234) -> list[Bill]:
        """Finalize an invoice `in_<user>_<month>` for each user, now; the month must be new."""
        with self.ledger.session(month, Actor("tester")) as session:
            drafts = [
                draft_invoice(
                    month, user, calls=3, usage_cents=Decimal(cents), account=Account(f"cus_{user}")
                )
                for user in users
            ]
            session.replace_drafts(drafts, usage_version="v0001", calls=0, usage_cents=Decimal(0))
            bills = session.page({State.PLANNED}, after_id=0, limit=10_000)
            return session.apply(
                [
                    Change(
                        bill,
                        replace(
                            bill,
                            state=State.FINALIZED,
                            stripe_invoice_id=f"in_{bill.user_id}_{month}",
                            finalized_at=self.now,
                        ),
                        "finalized",
                    )
                    for bill in bills
                ]
            )

    def hear(self, user: str, *, month: Month = OCTOBER, **said: Any) -> None:
        """Hear from Stripe of an invoice's payment."""
        values: dict[str, Any] = {
            "stripe_invoice_id": f"in_{user}_{month}",
            "month": str(month),
            "user_id": user,
            "generation": 1,
            "status": "open",
            "attempts": said.get("failed_attempts", 0),
            "failed_attempts": 0,
            "next_attempt_at": None,
            "amount_due_cents": 1234,
            "amount_paid_cents": 0,
            "decline_code": None,
            "message": None,
            "hosted_invoice_url": f"https://invoice.example.com/{user}",
            "invoice_pdf": f"https://invoice.example.com/{user}.pdf",
            "as_of": self.now,
            "way": "sensor",
        }
        with self.ledger.writing() as connection:
            keep_payments(connection, [Payment(**{**values, **said})])

    def credit(self, user: str, cents: int, **said: Any) -> None:
        """Write down a credit note of a user's invoice of October, now."""
        bill = self.ledger.bills_of_user(OCTOBER, user)[-1]
        values: dict[str, Any] = {
            "bill_id": bill.id,
            "number": 1,
            "stripe_invoice_id": bill.stripe_invoice_id,
            "cents": cents,
            "kind": CreditKind.REFUND,
            "reason": 'outage of 3 October, "all" regions',
            "attempt": 1,
            "asked_at": self.now,
            "outcome": "issued",
            "credit_note_id": "cn_1",
        }
        note = CreditNote(**{**values, **said})
        with self.ledger.writing() as connection:
            write_credit_note(connection, bill, note, actor=Actor("tester"), action="credited", detail="")

    def delivery(self, server: MailServer, context: ssl.SSLContext | None = None) -> Delivery:
        return Delivery(
            self.ledger, server, self.letters, self._addresses_of, context=context, now=lambda: self.now
        )

    def round(self, server: MailServer, **options: Any) -> Delivered:
        return self.delivery(server, options.pop("context", None)).round(**options)

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)

    def outbox(self) -> dict[str, dict[str, Any]]:
        """Give the outbox by key."""
        with self.ledger.reading() as connection:
            rows = connection.execute(sa.select(outbox)).mappings()
            return {row["key"]: {str(name): value for name, value in row.items()} for row in rows}

    def _addresses_of(self, users: Any) -> Mapping[str, str | None]:
        return {user: self.addresses.get(user, f"{user}@example.com") for user in users}


@pytest.fixture
def office(ledger: Ledger) -> Office:
    return Office(ledger)


@pytest.fixture
def switched_on(office: Office, mail_server: MailServer) -> Office:
    """Give an office whose mail is on since an hour ago."""
    office.later(hours=-1)
    office.round(mail_server)
    office.later(hours=1)
    return office


@pytest.fixture
def closed_port() -> Callable[[], MailServer]:
    """Give a function that names a server nobody runs."""

    def name() -> MailServer:
        with Receiver().running() as server:
            return server

    return name
