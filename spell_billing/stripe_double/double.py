"""The Stripe double as tests and the command line use it: start, script, inspect."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from starlette.types import Receive, Scope, Send

from spell_billing.stripe_double import money_back, payment
from spell_billing.stripe_double.account import ACCOUNT_ID, Account
from spell_billing.stripe_double.control import control_app
from spell_billing.stripe_double.engine import Engine
from spell_billing.stripe_double.errors import DoubleError
from spell_billing.stripe_double.faults import Fault, FaultKind, RequestRecord
from spell_billing.stripe_double.limits import Limiter, RateLimits
from spell_billing.stripe_double.objects import Customer, Event, Invoice, Violation
from spell_billing.stripe_double.pages import pages_app
from spell_billing.stripe_double.state_file import load_account, save_account
from spell_billing.stripe_double.wire import Server, url_of


class StripeDouble:
    """A Stripe account of our own, over HTTP.

    Args:
        host: The address to listen on; loopback by default.
        port: 0 takes a free one.
        latency_seconds: Added to every request, before its effect.
        limits: Rate limits; none by default.
        collection: `immediate` charges at finalization, `manual` when `advance` is called.
        auto_create_customers: Make an unknown `cus_...` up on first use.
        api_keys: The accepted keys; by default any that starts with `sk_test_` or `rk_test_`. Restricted keys
            (`rk_`) may not read the account, unless `restrict` says what they are allowed.
        account_id: Stripe's id of the account.
        now: The clock, giving aware datetimes.
        state_file: Where the objects are kept between runs.
        pages_at: The address that invoices name for their pages; by default one of Stripe's own.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency_seconds: float = 0.0,
        limits: RateLimits | None = None,
        collection: Literal["immediate", "manual"] = "immediate",
        auto_create_customers: bool = False,
        api_keys: frozenset[str] | None = None,
        account_id: str = ACCOUNT_ID,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        state_file: Path | None = None,
        pages_at: str | None = None,
    ) -> None:
        def new_engine() -> Engine:
            account = Account(
                now,
                account_id=account_id,
                collect_at_once=collection == "immediate",
                auto_create_customers=auto_create_customers,
                pages_at=pages_at,
            )
            return Engine(
                account,
                limiter=Limiter(limits or RateLimits()),
                latency_seconds=latency_seconds,
                api_keys=api_keys,
                on_defect=self._defects.append,
            )

        self._address = (host, port)
        self._state_file = state_file
        self._base_url: str | None = None
        self._defects: list[Exception] = []
        self._server: Server | None = None
        self._control = control_app(self)
        self._pages = pages_app(self)
        self._new_engine = new_engine
        self.engine = new_engine()
        if state_file is not None and state_file.exists():
            load_account(state_file, self.state)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of the API, of the control endpoints or of the pages."""
        path = scope["path"]
        if path.startswith("/_double/"):
            await self._control(scope, receive, send)
        elif path == "/" or path.startswith("/i/"):
            await self._pages(scope, receive, send)
        else:
            await self.engine(scope, receive, send)

    @property
    def base_url(self) -> str:
        """The address while it runs: `http://127.0.0.1:PORT`."""
        if self._base_url is None:
            raise DoubleError("The double does not run: use `with double.running():`.")
        return self._base_url

    @contextmanager
    def running(self) -> Iterator["StripeDouble"]:
        """Serve in a thread until the block ends; again at the same address, with the same objects.

        Raises:
            DoubleError: at the end, when a request hit a defect of the double itself.
        """
        ready = threading.Event()
        with self._listening(ready.set) as run:
            self.engine.stopping = asyncio.Event()
            thread = threading.Thread(target=run, name="stripe-double", daemon=True)
            thread.start()
            try:
                ready.wait()
                yield self
            finally:
                if self._server is not None:
                    self._server.stop()
                thread.join()
        if self._defects:
            raise DoubleError("A request hit a defect of the double.") from self._defects[0]

    @property
    def connections(self) -> int:
        """How many connections are open; none once what a killed client had under way has been done."""
        return len(self._server.server_state.connections) if self._server is not None else 0

    def serve(self, on_ready: Callable[[str], object] | None = None) -> None:
        """Serve in this thread until SIGINT or SIGTERM, then save the state; `on_ready` gets the base URL.

        Raises:
            OSError: when the port is taken.
        """
        with self._listening(lambda: on_ready(self.base_url) if on_ready else None) as run:
            run()

    @contextmanager
    def _listening(self, on_ready: Callable[[], object]) -> Iterator[Callable[[], None]]:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listener = socket.create_server(self._address, family=family)
        self._address = listener.getsockname()[:2]
        self._base_url = url_of(*self._address)
        self._server = server = Server(self, on_ready=on_ready, on_stopping=self._release_waiting)
        try:
            yield lambda: server.run([listener])
        finally:
            listener.close()
            self._base_url = self._server = None
            if self._state_file is not None:
                save_account(self._state_file, self.state)

    def _release_waiting(self) -> None:
        self.engine.stopping.set()

    def arm(self, kind: FaultKind | str, **how: Any) -> Fault:
        """Arm a fault; see `Fault` for how. It counts requests from now on."""
        fault = Fault(kind, **how)
        self.engine.faults.append(fault)
        return fault

    def restrict(self, key: str, permissions: Iterable[str]) -> None:
        """Allow a restricted key these permissions alone, by Stripe's names, as `invoice_write`."""
        if not key.startswith("rk_test_"):
            raise DoubleError("Only a key that begins with rk_test_ can be restricted.")
        self.engine.allowed[key] = frozenset(permissions)

    def disarm(self) -> None:
        """Remove every fault."""
        self.engine.faults.clear()

    def reset(self) -> None:
        """Start with an empty account, no faults, the real time; running requests end on the old one."""
        if self._server is not None:
            self._server.call_soon(self.engine.stopping.set)
        self.engine = self._new_engine()

    def shift_clock(self, seconds: int) -> None:
        """Move the double's clock by whole seconds (negative: back)."""
        self.state.shift_seconds += int(seconds)

    def expire_all_keys(self) -> None:
        """Forget every idempotency key, as after 24 hours."""
        with self.engine.lock:
            self.engine.keys.expire_all()

    def advance(self) -> None:
        """Let Stripe's background work happen: automatic collection and retries that are due."""
        with self.engine.lock:
            payment.advance(self.state)

    def add_customer(
        self,
        id: str,  # noqa: A002 - Stripe's own name of the field, also over HTTP
        *,
        card: str = "ok",
        email: str | None = None,
        balance_cents: int = 0,
        currency: str | None = None,
        metadata: Mapping[str, str] | None = None,
        test_clock: str | None = None,
    ) -> None:
        """Seed a customer with a given id; `card` is one of `ok declined insufficient_funds none`."""
        if card not in payment.CARDS:
            raise DoubleError(f"{card!r} is no card: choose of {', '.join(payment.CARDS)}.")
        customer = Customer(
            id=id,
            created=self.state.unix(),
            email=email,
            metadata={payment.CARD: card, **(metadata or {})},
            currency=currency,
            balances_cents={currency or "usd": balance_cents} if balance_cents else {},
            test_clock=test_clock,
        )
        with self.engine.lock:
            self.state.customers.put(customer)

    def dispute(
        self,
        invoice_id: str,
        *,
        outcome: Literal["open", "won", "lost"] = "lost",
        amount_cents: int | None = None,
    ) -> None:
        """Let the bank take back the charge of a paid invoice; a second call closes an open dispute."""
        with self.engine.lock:
            money_back.dispute(self.state, invoice_id, outcome=outcome, amount_cents=amount_cents)

    def fail_refund(self, invoice_id: str, *, reason: str = "expired_or_canceled_card") -> None:
        """Let the newest refund of an invoice fail at the bank, days after it was made."""
        with self.engine.lock:
            money_back.fail_refund(self.state, invoice_id, reason=reason)

    def void_credit_note(self, invoice_id: str) -> None:
        """Void the newest credit note of an open invoice, as a person does in the dashboard."""
        with self.engine.lock:
            money_back.void_credit_note(self.state, invoice_id)

    def return_payment(self, invoice_id: str) -> None:
        """Let the bank debit of a paid invoice fail afterwards: the invoice is open again."""
        with self.engine.lock:
            money_back.reopen(self.state, self.state.invoices.get(invoice_id))

    def show(self, invoice_id: str, **fields: object) -> None:
        """Show these fields in an invoice's JSON from now on; `ABSENT` leaves a field out."""
        with self.engine.lock:
            invoice = self.state.invoices.get(invoice_id)
            self.state.put_invoice(replace(invoice, shown={**invoice.shown, **fields}))

    @property
    def state(self) -> Account:
        """Everything the account holds."""
        return self.engine.account

    @property
    def requests(self) -> list[RequestRecord]:
        """Every request so far, oldest first."""
        return list(self.engine.requests)

    @property
    def writes(self) -> list[RequestRecord]:
        """The POST and DELETE requests so far, oldest first."""
        return [each for each in self.engine.requests if each.method != "GET"]

    @property
    def violations(self) -> list[Violation]:
        """The billing keys that stand on more than one finalized invoice."""
        return list(self.state.violations)

    def invoices(self) -> list[Invoice]:
        """Every invoice that is not deleted, oldest first."""
        with self.engine.lock:
            return list(self.state.invoices)

    def events(self) -> list[Event]:
        """Every event, oldest first."""
        with self.engine.lock:
            return list(self.state.events)

    def summary(self) -> dict[str, Any]:
        """Return counts and violations as plain JSON. `total_cents` leaves void invoices out."""
        engine, invoices = self.engine, self.invoices()
        return {
            "now": self.state.unix(),
            "customers": len(self.state.customers),
            "invoices": dict(Counter(each.status for each in invoices)),
            "total_cents": sum(each.total_cents for each in invoices if each.status != "void"),
            "events": len(self.state.events),
            "requests": len(engine.requests),
            "writes": len(self.writes),
            "by_operation": dict(engine.by_operation),
            "rate_limited": engine.rate_limited,
            "replays": engine.replays,
            "idempotency_keys": len(engine.keys),
            "violations": [
                {"billing_key": each.billing_key, "invoices": list(each.invoices)} for each in self.violations
            ],
        }
