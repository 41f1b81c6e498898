"""A billed month beside a Stripe double that collects when it is told to, and the ticks that follow it."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
import time_machine

from spell_billing.alerts.channels import Alerts
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.payments import Payment, read_payment
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.schema import events, outbox
from spell_billing.payments.follow import Followed, follow_payments
from spell_billing.payments.handler import handle_batch, receive
from spell_billing.stripe_double import StripeDouble
from spell_billing.stripe_double.render import to_json
from spell_billing_tests.alerting.receivers import WebReceiver
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform

ONE, TWO, THREE, FOUR = (f"user-000{number}" for number in (1, 2, 3, 4))


@dataclass
class World:
    """A platform whose March is billed, what people hear, and the clock of all."""

    platform: SmallPlatform
    clock: time_machine.Traveller
    web: WebReceiver
    urls: list[Any] = field(default_factory=list)

    @property
    def double(self) -> StripeDouble:
        return self.platform.double

    def ledger(self) -> Ledger:
        return self.platform.ledger()

    def bill(self, *users: str, cards: dict[str, str] | None = None, cents: int = 1000) -> None:
        """Bill March for users whose cards do as told (`ok` unless said)."""
        self.platform.accounts(*users)
        for user in users:
            self.double.add_customer(f"cus_{user}", card=(cards or {}).get(user, "ok"))
        self.platform.calls(MARCH, *((user, cents) for user in users))
        self.platform.bill(MARCH, freeze=False)

    def card(self, user: str, card: str) -> None:
        self.double.add_customer(f"cus_{user}", card=card)

    def alerts(self, ledger: Ledger) -> Alerts:
        return Alerts(self.urls, ledger.outbox, logging.getLogger("tick"))

    def tick(self, *days: int, ledger: Ledger | None = None) -> Followed:
        """Follow payments once, with our own dunning on the given days."""
        if ledger is None:
            with self.ledger() as opened:
                return self.tick(*days, ledger=opened)
        with ledger.exclusive("payments", wait_seconds=0):
            return follow_payments(ledger, self.platform.gateway, self.alerts(ledger), dunning_days=days)

    def hear(self, happened: Sequence[dict[str, Any]], way: str = "webhook") -> None:
        """Receive events and handle them, without asking Stripe."""
        with self.ledger() as ledger:
            ledger.write(receive, happened, way)
            handle_batch(ledger, 500)

    def events(self, *types: str) -> list[dict[str, Any]]:
        """Give what happened at Stripe as events, oldest first."""
        return [to_json(each) for each in self.double.events() if not types or each.type in types]

    def advance(self, *, days: float = 0) -> None:
        """Let time pass, and let Stripe collect what is due then."""
        self.clock.shift(days * 86_400)
        self.double.advance()

    def state(self, user: str) -> str:
        return self.bill_of(user).state.value

    def bill_of(self, user: str) -> Bill:
        return self.platform.bill_of(MARCH, user)

    def invoice_id(self, user: str) -> str:
        return str(self.bill_of(user).stripe_invoice_id)

    def payment(self, user: str) -> Payment:
        with self.ledger() as ledger, ledger.reading() as connection:
            payment = read_payment(connection, self.invoice_id(user))
        assert payment is not None
        return payment

    def alerted(self, user: str) -> list[int]:
        """Give the attempts whose failure went out as an alert, alone or with others, on some channel."""
        key = f"payment_failed:{self.invoice_id(user)}:"
        with self.ledger() as ledger, ledger.reading() as connection:
            rows = connection.execute(sa.select(outbox).where(outbox.c.kind == "payment_failed")).all()
        about = [row for row in rows if row.channel == "alerts" and row.key.startswith(key)]
        sent = {row.key for row in rows if row.channel != "alerts" and row.sent_at is not None}
        summed_up = [each for each in sent if not each.startswith("payment_failed:in_")]
        return [int(row.key.removeprefix(key)) for row in about if row.key in sent or summed_up]

    def followed(self, user: str) -> list[tuple[str, str, str]]:
        """Give how the user's bill followed its payment: actor, from, to."""
        return [
            (entry["actor"], entry["from_state"], entry["to_state"])
            for entry in self.platform.trail(MARCH, user)
            if entry["action"] == "status_followed"
        ]

    def inbox(self) -> set[tuple[str, str | None]]:
        """Give the types of the events that came in with their outcomes; None for one that waits."""
        with self.ledger() as ledger, ledger.reading() as connection:
            rows = connection.execute(sa.select(events.c.type, events.c.outcome))
            return {(kind, outcome) for kind, outcome in rows}

    def requests(self, operation: str) -> int:
        return sum(each.operation == operation for each in self.double.requests)

    def ask(self, coroutine: Any) -> Any:
        """Run something that needs the gateway: `coroutine(gateway)`."""

        async def run() -> Any:
            async with self.platform.gateway() as gateway:
                return await coroutine(gateway)

        return asyncio.run(run())
