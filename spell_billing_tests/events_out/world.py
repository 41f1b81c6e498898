"""Bills whose states move, a clock that moves when told, and a web service that takes events or does not."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.month import Month
from spell_billing.core.outcomes import Reason, State
from spell_billing.events_out.delivery import EventDelivery, Receiver, Round
from spell_billing.ledger.feed import Event, final_id, read_feed
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor, Bill, Change
from spell_billing.ledger.schema import outbox
from spell_billing.ledger.session import MonthSession

OCTOBER = Month(2026, 10)
SECRET = SecretStr("a-secret-of-the-tests-0001")


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    """By default the system drops the sixth connection at once, which is tried again after a second."""


@dataclass
class Platform:
    """A web service of the platform's; answers each user's events as told, by default with 200."""

    status: int = 200
    status_of_user: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    tls: ssl.SSLContext | None = None
    port: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/billing?token=t0p-secret-token"

    @property
    def told(self) -> list[tuple[str | None, str]]:
        """The user and type of each event that came, whatever was answered."""
        return [(event["user_id"], event["type"]) for event in map(json.loads, self.bodies)]

    @contextmanager
    def running(self) -> Iterator["Platform"]:
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                platform.headers.append(dict(self.headers))
                platform.bodies.append(body)
                time.sleep(platform.seconds)
                status = platform.status_of_user.get(json.loads(body)["user_id"], platform.status)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{platform.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                pass

        with _Server(("127.0.0.1", self.port), Handler) as server:
            self.port = server.server_port
            if self.tls is not None:
                server.socket = self.tls.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


@dataclass
class Office:
    """Moves bills, and sends events; its clock moves when told."""

    ledger: Ledger
    now: datetime = datetime(2026, 11, 1, 1, tzinfo=UTC)

    @contextmanager
    def session(self, month: Month = OCTOBER) -> Iterator[MonthSession]:
        with self.ledger.exclusive(str(month), wait_seconds=0) as (connection, require_lock):
            yield MonthSession(
                connection, month, Actor("tester"), require_lock=require_lock, now=lambda: self.now
            )

    def invoice(self, *users: str, month: Month = OCTOBER, **terms: Any) -> list[Bill]:
        """Finalize an invoice `in_<user>_<month>` of 1234 cents for each user; the month must be new."""
        with self.session(month) as session:
            accounts = {user: Account(f"cus_{user}", **terms) for user in users}
            drafts = [
                draft_invoice(month, user, calls=3, usage_cents=Decimal(1234), account=account)
                for user, account in accounts.items()
            ]
            session.replace_drafts(drafts, usage_version="v0001", calls=0, usage_cents=Decimal(0))
        return [self.move(user, State.FINALIZED, month=month, action="finalized") for user in users]

    def move(
        self,
        user: str,
        state: State,
        *,
        month: Month = OCTOBER,
        action: str = "status_followed",
        reason: Reason | None = None,
        detail: str | None = None,
    ) -> Bill:
        with self.session(month) as session:
            bill = max(session.bills_of_users([user]), key=lambda each: each.generation)
            after = replace(
                bill,
                state=state,
                reason=reason,
                stripe_invoice_id=f"in_{user}_{month}",
                finalized_at=bill.finalized_at or self.now,
            )
            return session.apply([Change(bill, after, action, detail)])[0]

    def later(self, **span: float) -> None:
        self.now += timedelta(**span)

    def feed(self, after: int = 0, limit: int = 1_000) -> list[Event]:
        with self.ledger.reading() as connection:
            found = read_feed(connection, after=after, until=final_id(connection), limit=limit)
        return [event for _, event in found]

    def types(self) -> list[tuple[str | None, str]]:
        return [(event.user_id, event.type.value) for event in self.feed()]

    def round(self, *urls: str, **options: Any) -> Round:
        receivers = [Receiver(SecretStr(url)) for url in urls]
        delivery = EventDelivery(self.ledger, receivers, SECRET, timedelta(days=14), now=lambda: self.now)
        return delivery.round(**options)

    def outbox(self) -> list[dict[str, Any]]:
        with self.ledger.reading() as connection:
            rows = connection.execute(sa.select(outbox).order_by(outbox.c.id)).mappings()
            return [{str(name): value for name, value in row.items()} for row in rows]

    def alerts(self) -> list[str]:
        """The titles of the alerts that were put into the outbox."""
        return [json.loads(row["payload"])["title"] for row in self.outbox() if row["channel"] == "alerts"]
