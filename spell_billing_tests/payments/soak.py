"""A simulated year: months of a platform with everything on, billed by processes that are killed at random.

Under a moved clock and a storm of faults at Stripe; meanwhile people refund, dispute, void and hold.
`python -m spell_billing_tests.payments.soak` is one billing run, as a process of its own.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import types
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import time_machine

from spell_billing.core.errors import StripeSilentError
from spell_billing.core.keys import MONTH
from spell_billing.core.month import Month
from spell_billing.core.outcomes import UNDONE
from spell_billing.invoicing.review import hold, release
from spell_billing.ledger.grants import add_grant
from spell_billing.ledger.rows import Actor
from spell_billing.stripe_double import FaultKind, Invoice
from spell_billing_tests.payments.world import World
from spell_billing_tests.proof.priced import BY_ENDPOINT
from spell_billing_tests.proof.small_platform import SmallPlatform
from spell_billing_tests.proof.test_plans import subscribe, with_plans

FAULT_PROBABILITY = 0.02
_FAULTS = (
    *(FaultKind.LOST_BEFORE, FaultKind.LOST_AFTER, FaultKind.TRUNCATED),
    *(FaultKind.ERROR_500_UNSTORED, FaultKind.RATE_LIMITED, FaultKind.LOCK_TIMEOUT),
)
_MOST_RUNS = 40
_MOST_TICKS = 200
_ENOUGH = 500
"""Minor units that something can be given back of."""
_PERSON = Actor("soak")


@dataclass
class Soak:
    """A platform's months, one after another; `seed` decides all that is random."""

    world: World
    users: int
    seed: int
    chance: random.Random = field(init=False)
    kills: int = 0
    faults: int = 0
    rows: int = 0

    def __post_init__(self) -> None:
        # Not for secrets: a seed gives the same year again.
        self.chance = random.Random(self.seed)  # noqa: S311 - see the comment above
        self.names = [f"user-{number:05}" for number in range(self.users)]

    @property
    def platform(self) -> SmallPlatform:
        return self.world.platform

    def prepare(self) -> None:
        """Give every user an account, a card that works or not, and a plan."""
        self.platform.rules = BY_ENDPOINT
        with_plans(self.platform)
        self.platform.source.accounts(
            [{"user_id": name, "stripe_customer_id": f"cus_{name}"} for name in self.names]
        )
        for number, name in enumerate(self.names):
            self.world.double.add_customer(f"cus_{name}", card="declined" if number % 30 == 7 else "ok")
        for name in self.names[::2]:
            subscribe(self.platform, name, "basic", None, None)

    def live_through(self, month: Month) -> None:
        """Let a month pass: its calls, late rows, plan changes, billing, payments, and what people do."""
        self._use(month)
        self._change_plans(month)
        self.world.clock.move_to(month.end + timedelta(hours=6))
        self._grant(month)
        self.platform.draft(month)
        held = self.chance.choice(self._planned(month))
        with self.platform.ledger() as ledger:
            hold(ledger, month, _PERSON, "asked to wait", held)
        self._bill(month)
        with self.platform.ledger() as ledger:
            release(ledger, month, _PERSON, "agreed", held)
        self._bill(month)
        self.world.advance(days=2)
        self._follow()
        self._interfere(month)
        self.world.advance(days=1)
        self._follow()

    def must_agree(self, month: Month) -> None:
        """Accept nothing but agreement of usage, ledger, Stripe and money, and each user charged once."""
        result = self.platform.must_agree(month)
        standing = self._standing(month)
        counted = Counter(each.customer for each in standing)
        assert standing, "no invoice bears the month"
        assert set(counted.values()) == {1}, counted.most_common(3)
        assert result.stripe_cents == sum(each.total_cents for each in standing)

    def _use(self, month: Month) -> None:
        rows = []
        for name in self.names:
            for _ in range(self.chance.randint(0, 5)):
                cents = self.chance.randint(1, 900) * (1 if self.chance.randint(1, 30) > 1 else -1)
                rows.append((name, cents, self._moment(month), f"/v1/{self.chance.randint(1, 3)}"))
        # Some calls of the month before come only now.
        latecomers = self.chance.sample(self.names, max(1, self.users // 100))
        before = month.previous()
        rows += [(name, self.chance.randint(1, 500), self._moment(before), "/v1/1") for name in latecomers]
        self.rows += len(rows)
        for start in range(0, len(rows), 500):
            values = ", ".join(
                f"('{user}', {cents}, '{moment}', '{endpoint}')"
                for user, cents, moment, endpoint in rows[start : start + 500]
            )
            self.platform.sql(
                f"INSERT INTO usage_counters (user_id, cost_cents, created_at, endpoint) VALUES {values}"
            )

    def _moment(self, month: Month) -> str:
        seconds = self.chance.randrange(int((month.end - month.start).total_seconds()))
        return f"{month.start + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}+00:00"

    def _change_plans(self, month: Month) -> None:
        for name in self.chance.sample(self.names[::2], max(1, self.users // 50)):
            now, plan = self._moment(month), self.chance.choice(["basic", "pro", "least"])
            self.platform.sql(
                f"UPDATE plan_subscriptions SET ends_at = '{now}' WHERE user_id = '{name}' "
                f"AND ends_at IS NULL AND (starts_at IS NULL OR starts_at < '{now}')"
            )
            self.platform.sql(
                "INSERT INTO plan_subscriptions (user_id, plan_id, starts_at) SELECT "
                f"'{name}', '{plan}', '{now}' WHERE NOT EXISTS (SELECT 1 FROM plan_subscriptions WHERE "
                f"user_id = '{name}' AND ends_at IS NULL)"
            )

    def _grant(self, month: Month) -> None:
        name = self.chance.choice(self.names)
        with self.platform.ledger() as ledger, ledger.writing() as connection:
            add_grant(
                connection,
                f"soak-{month}",
                name,
                700,
                "usd",
                expires_on=month.plus(2).end.date(),
                is_paid=self.chance.choice([True, False]),
                reason="soak",
                actor=_PERSON,
                now=datetime.now(UTC),
            )

    def _planned(self, month: Month) -> list[str]:
        with self.platform.ledger() as ledger:
            return [bill.user_id for bill in ledger.bills(month, UNDONE)]

    def _bill(self, month: Month) -> None:
        """Bill in processes of their own until one ends well; some are killed at a request that they make."""
        each = FAULT_PROBABILITY / len(_FAULTS)
        for kind in _FAULTS:
            self.world.double.arm(kind, probability=each, seed=self.chance.randrange(1 << 30))
        for _ in range(_MOST_RUNS):
            run = self._start(month)
            if self.chance.random() < 0.7:
                nth = self.chance.randint(1, 3 * self.users)
                self.world.double.arm(FaultKind.NONE, nth=nth, before_effect=lambda _, run=run: _kill(run))
            said, _ = run.communicate(timeout=1800)
            if run.returncode == -signal.SIGKILL:
                self.kills += 1
            elif run.returncode == 0:
                break
            else:
                assert "Transient" in said or run.returncode == 3, said
        else:
            raise AssertionError(f"{month} was not billed in {_MOST_RUNS} runs")
        self.faults += sum(fault.fired for fault in self.world.double.engine.faults if fault.probability)
        self.world.double.disarm()
        assert self.world.double.violations == []

    def _start(self, month: Month) -> "subprocess.Popen[str]":
        told = {
            "url": self.platform.url,
            "base_url": self.world.double.base_url,
            "store": str(self.platform.store_path),
            "month": str(month),
            "now": datetime.now(UTC).timestamp(),
        }
        return subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(told)],
            env=os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _follow(self) -> None:
        """Follow payments as the sensor does, tick after tick, until one leaves nothing to the next."""
        for _ in range(_MOST_TICKS):
            # A slow machine: what was read is kept, and the next tick goes on.
            with contextlib.suppress(StripeSilentError):
                if not self.world.tick().more:
                    return
        raise AssertionError(f"payments were not followed to the end in {_MOST_TICKS} ticks")

    def _interfere(self, month: Month) -> None:
        """Do at Stripe, and by our commands, what people do with paid invoices."""
        paid = [
            each for each in self._standing(month) if each.status == "paid" and each.total_cents > _ENOUGH
        ]
        refunded, lost, won, noted = self.chance.sample(paid, 4)
        charge = next(each for each in self.world.double.state.charges if each.invoice == refunded.id)
        self.platform.person("POST", "/v1/refunds", {"charge": charge.id, "amount": 150})
        self.world.double.dispute(lost.id, outcome="lost")
        self.world.double.dispute(won.id, outcome="won")
        self.platform.credit(month, noted.customer.removeprefix("cus_"), 200, to_balance=True)
        unpaid = [each for each in self._standing(month) if each.status == "open"]
        if unpaid:
            self.platform.void(month, self.chance.choice(unpaid).customer.removeprefix("cus_"))
            self._bill(month)

    def _standing(self, month: Month) -> list[Invoice]:
        return [each for each in self.platform.standing() if each.metadata.get(MONTH) == str(month)]


def _kill(run: "subprocess.Popen[str]") -> None:
    if run.poll() is None:
        run.kill()


def _run(told: dict[str, Any]) -> int:
    """Bill a month once, as `bill` does; 3 where users are left."""
    double: Any = types.SimpleNamespace(base_url=told["base_url"], violations=[])
    platform = SmallPlatform(told["url"], None, double, Path(told["store"]), tries=6, rules=BY_ENDPOINT)
    with time_machine.travel(told["now"], tick=True):
        month = Month.parse(told["month"])
        outcome = platform.bill(month)
        return 3 if outcome.unfinished else 0


if __name__ == "__main__":
    sys.exit(_run(json.loads(sys.argv[1])))
