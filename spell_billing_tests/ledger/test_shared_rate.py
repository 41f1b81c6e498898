"""Runs on one ledger share the account's rate: months that are held now are counted, and counted again."""

import asyncio
import subprocess
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from spell_billing.core.month import Month
from spell_billing.invoicing.pace import LIVE, Pace, shared
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.orchestration.resources import StripeResource
from spell_billing.settings.databases import DatabaseUnreachableError, DatabaseUrl, unreachable

OtherProcess = Callable[..., "subprocess.Popen[str]"]
ME = Actor("me")
CREATE = "POST /v1/invoices"
PATIENCE_SECONDS = 60.0


class WatchedPace(Pace):
    """A pace that tells when it was given its part."""

    def __init__(self) -> None:
        super().__init__(LIVE)
        self._shared = asyncio.Event()

    def share(self, runs: int) -> None:
        super().share(runs)
        self._shared.set()

    async def until_rate(self, per_second: float) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.rate_per_second(CREATE) != per_second:
                self._shared.clear()
                await self._shared.wait()


def test_months_that_are_held_are_counted_over_all_processes(
    database_url: str, ledger: Ledger, other_process: OtherProcess
) -> None:
    assert len(ledger.months_held()) == 0
    with ledger.exclusive(wait_seconds=0), ledger.session(Month(2026, 10), ME, wait_seconds=0):
        assert len(ledger.months_held()) == 1
        other = other_process("hold", database_url, "2026-08", "2026-09")
        assert len(ledger.months_held()) == 3
        other.kill()
        other.wait()
        with ledger.session(Month(2026, 9), ME, wait_seconds=PATIENCE_SECONDS):
            assert len(ledger.months_held()) in {2, 3}
    with ledger.session(Month(2026, 8), ME, wait_seconds=PATIENCE_SECONDS):
        assert len(ledger.months_held()) == 1
    assert len(ledger.months_held()) == 0


def test_a_run_takes_its_part_and_gets_the_whole_rate_when_the_other_run_ends(
    database_url: str, ledger: Ledger, other_process: OtherProcess
) -> None:
    other = other_process("hold", database_url, "2026-07", "2026-08", "2026-09")

    async def run() -> None:
        pace = WatchedPace()
        async with shared(pace, lambda: len(ledger.months_held()), recheck_seconds=0.01):
            assert pace.rate_per_second(CREATE) == 25 / 4
            other.kill()
            await pace.until_rate(25)

    with ledger.session(Month(2026, 10), ME, wait_seconds=0):
        asyncio.run(run())


def test_a_run_makes_room_for_one_that_begins_later(url: DatabaseUrl, ledger: Ledger) -> None:
    async def run() -> None:
        pace = WatchedPace()
        with ExitStack() as later:
            async with shared(pace, lambda: len(ledger.months_held()), recheck_seconds=0.01):
                assert pace.rate_per_second(CREATE) == 25
                second = later.enter_context(Ledger(url))
                later.enter_context(second.session(Month(2026, 11), ME, wait_seconds=0))
                await pace.until_rate(12.5)

    with ledger.session(Month(2026, 10), ME, wait_seconds=0):
        asyncio.run(run())


def test_a_ledger_that_does_not_answer_on_the_way_leaves_the_part_as_it_was(url: DatabaseUrl) -> None:
    counted = 0

    def months_held() -> int:
        nonlocal counted
        counted += 1
        if counted in {2, 3}:
            raise unreachable(url, "it is gone")
        return 2 if counted == 1 else 1

    async def run() -> None:
        pace = WatchedPace()
        async with shared(pace, months_held, recheck_seconds=0.001):
            await pace.until_rate(25)

    asyncio.run(run())
    assert counted >= 4


def test_the_gateway_of_a_run_has_its_part_of_the_rate(
    database_url: str, ledger: Ledger, other_process: OtherProcess
) -> None:
    other_process("hold", database_url, "2026-09")
    stripe = StripeResource(api_key="sk_test_shared")

    async def rate_per_second() -> float:
        async with stripe.connect(ledger) as gateway:
            return gateway.pace.rate_per_second(CREATE)

    assert asyncio.run(rate_per_second()) == 25
    with ledger.session(Month(2026, 10), ME, wait_seconds=0):
        assert asyncio.run(rate_per_second()) == 12.5


def test_a_rate_that_cannot_be_shared_stops_the_run_before_it_begins(url: DatabaseUrl) -> None:
    def months_held() -> int:
        raise unreachable(url, "it is gone")

    async def run() -> None:
        async with shared(Pace(LIVE), months_held):
            pass

    with pytest.raises(DatabaseUnreachableError):
        asyncio.run(run())
