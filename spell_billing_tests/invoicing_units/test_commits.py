"""Group commit: many changes in one transaction, an error for all who wait, nothing half done."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal

import pytest

from spell_billing.core.drafting import Account, draft_invoice
from spell_billing.core.errors import LedgerLostError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import State
from spell_billing.invoicing.commits import GroupCommit
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor, Bill, Change
from spell_billing.ledger.session import MonthSession
from spell_billing.settings.databases import parse_database_url

OCTOBER = Month(2026, 10)


class Watched(MonthSession):
    """A real session that notes the size of each group and can be held inside a transaction."""

    def watch(self) -> None:
        self.groups: list[int] = []
        self.inside = self.most_inside = 0
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def apply(self, changes: Sequence[Change]) -> list[Bill]:
        with self.alone():
            self.groups.append(len(changes))
            self.entered.set()
            assert self.go_on.wait(30)
            return super().apply(changes)

    def look(self) -> int:
        with self.alone():
            return len(self.page(None, after_id=0, limit=1))

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        yield
        self.inside -= 1


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Ledger]:
    with Ledger(parse_database_url(sqlite_url, setting="DATABASE_URL")) as opened:
        yield opened


@pytest.fixture
def session(ledger: Ledger) -> Iterator[Watched]:
    with ledger.session(OCTOBER, Actor("biller"), wait_seconds=0) as opened:
        watched = Watched(opened._connection, OCTOBER, Actor("biller"))
        watched.watch()
        yield watched


@pytest.fixture
def changes(session: Watched) -> Callable[[int], list[Change]]:
    """Give `changes(n)`: drafts n bills and gives the change of each to drafted."""

    def make(count: int) -> list[Change]:
        drafts = [
            draft_invoice(
                OCTOBER, f"user-{number:04}", calls=1, usage_cents=Decimal(5), account=Account("cus_1")
            )
            for number in range(count)
        ]
        session.replace_drafts(drafts, usage_version="v1", calls=count, usage_cents=Decimal(5 * count))
        bills = session.page(None, after_id=0, limit=count)
        return [
            Change(bill, replace(bill, state=State.DRAFTED, stripe_invoice_id=f"in_{bill.id}"), "drafted")
            for bill in bills
        ]

    return make


async def entered(session: Watched) -> None:
    assert await asyncio.to_thread(session.entered.wait, 30)


def test_what_comes_in_during_a_transaction_is_written_with_the_next(
    session: Watched, changes: Callable[[int], list[Change]]
) -> None:
    async def main() -> list[Bill]:
        first, *others = changes(30)
        session.go_on.clear()
        async with GroupCommit(session) as commits:
            tasks = [asyncio.create_task(commits.write(first))]
            await entered(session)
            tasks += [asyncio.create_task(commits.write(change)) for change in others]
            await asyncio.sleep(0)
            session.go_on.set()
            return await asyncio.gather(*tasks)

    bills = asyncio.run(main())

    assert session.groups == [1, 29]
    assert [bill.stripe_invoice_id for bill in bills] == [f"in_{bill.id}" for bill in bills]
    assert {bill.state for bill in bills} == {State.DRAFTED}


def test_groups_are_bounded_and_written_in_the_order_of_their_changes(
    ledger: Ledger, session: Watched, changes: Callable[[int], list[Change]]
) -> None:
    async def main() -> None:
        async with GroupCommit(session) as commits:
            await asyncio.gather(*map(commits.write, changes(1_100)))

    asyncio.run(main())
    trail = [row["user_id"] for row in ledger.audit_trail(OCTOBER) if row["to_state"] == State.DRAFTED]

    assert sum(session.groups) == 1_100
    assert max(session.groups) <= 500
    assert trail == sorted(trail)


def test_an_error_reaches_everyone_in_the_group_and_no_one_after_it(
    ledger: Ledger, session: Watched, changes: Callable[[int], list[Change]]
) -> None:
    async def main() -> list[Bill | BaseException]:
        drafts = changes(10)
        session.apply(drafts[4:5])
        async with GroupCommit(session) as commits:
            results = await asyncio.gather(*map(commits.write, drafts), return_exceptions=True)
            await commits.write(drafts[0])
        return results

    results = asyncio.run(main())

    assert [type(result) for result in results] == [LedgerLostError] * 10
    assert [bill.state for bill in ledger.bills(OCTOBER)].count(State.DRAFTED) == 2


def test_someone_who_no_longer_waits_does_not_harm_the_group(
    ledger: Ledger, session: Watched, changes: Callable[[int], list[Change]]
) -> None:
    async def main() -> None:
        drafts = changes(5)
        session.go_on.clear()
        async with GroupCommit(session) as commits:
            tasks = [asyncio.create_task(commits.write(change)) for change in drafts]
            await entered(session)
            tasks[1].cancel()
            session.go_on.set()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert tasks[1].cancelled()

    asyncio.run(main())

    assert [bill.state for bill in ledger.bills(OCTOBER)] == [State.DRAFTED] * 5


@pytest.mark.parametrize("cancellations", [1, 2, 3])
def test_cancelling_the_run_leaves_no_half_transaction_and_a_free_session(
    ledger: Ledger, session: Watched, changes: Callable[[int], list[Change]], cancellations: int
) -> None:
    async def bill(drafts: list[Change]) -> None:
        async with GroupCommit(session) as commits:
            await asyncio.gather(*map(commits.write, drafts))

    async def main() -> None:
        session.go_on.clear()
        running = asyncio.create_task(bill(changes(20)))
        await entered(session)
        for _ in range(cancellations):
            running.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
        assert not running.done()
        session.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert session.inside == 0

    asyncio.run(main())

    states = {bill.state for bill in ledger.bills(OCTOBER)}
    assert states == {State.DRAFTED}
    assert session.look() == 1


def test_calls_of_the_session_take_turns(session: Watched, changes: Callable[[int], list[Change]]) -> None:
    async def main() -> None:
        drafts = changes(100)
        async with GroupCommit(session) as commits:
            looks = [commits.in_turn(session.look) for _ in range(50)]
            await asyncio.gather(*map(commits.write, drafts), *looks)

    asyncio.run(main())

    assert session.most_inside == 1


def test_an_error_of_a_call_in_turn_reaches_its_caller(session: Watched) -> None:
    def fail() -> None:
        raise LedgerLostError("gone", remedy="look")

    async def main() -> None:
        async with GroupCommit(session) as commits:
            with pytest.raises(LedgerLostError, match="gone"):
                await commits.in_turn(fail)
            assert await commits.in_turn(session.look) == 0

    asyncio.run(main())
