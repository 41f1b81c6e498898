"""Drives a month's bills, many at once, those of one Stripe customer one after the other.

Stripe locks a customer while a write on one of its invoices is under way: a second one meanwhile gets a 429
`lock_timeout` (https://docs.stripe.com/rate-limits#object-lock-timeouts).
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from functools import partial

from spell_billing.core.outcomes import TO_DRIVE, State
from spell_billing.invoicing.commits import GroupCommit
from spell_billing.invoicing.drive import Drive, Unfinished
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.report import BillingReport, Outcome
from spell_billing.ledger.queries import read_bills_of_customer
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.session import MonthSession

CONCURRENT_BILLS = 64
"""Enough to keep 75 requests a second under way at Stripe's latency of about 0.3 seconds."""

PAGE_ROWS = 500
_LINE_ROWS = 20
"""How many waiting bills of one customer are read at a time."""


async def drive_all(
    session: MonthSession,
    gateway: Gateway,
    commits: GroupCommit,
    report: BillingReport,
    outcome: Outcome,
    *,
    after_id: int,
    most: int | None,
) -> None:
    """Drive all bills that are left, by their ids.

    Args:
        session: Holds the month's lock.
        gateway: To Stripe.
        commits: Writes to the ledger.
        report: Told of every user.
        outcome: Filled on the way.
        after_id: The last bill that was driven already.
        most: Drive no more than this number; None for all.

    Raises:
        StripeAccountError: nobody can be billed. LedgerError: the ledger was lost on the way.
    """
    queue: asyncio.Queue[Bill | None] = asyncio.Queue(maxsize=PAGE_ROWS)
    line = _Line(session, commits)

    async def feed() -> None:
        async for bill in _all_left(session, commits, after_id, sys.maxsize if most is None else most):
            if line.may_start(bill):
                await queue.put(bill)
        for _ in range(CONCURRENT_BILLS):
            await queue.put(None)

    async def work() -> None:
        while (first := await queue.get()) is not None:
            async for bill in line.from_first(first):
                await drive_one(Drive(gateway, commits, bill), report, outcome)

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed())
            for _ in range(CONCURRENT_BILLS):
                tasks.create_task(work())
    except ExceptionGroup as errors:
        # Not `except*`: Python 3.11.2 would wrap the one that is raised in a group again.
        raise _first(errors) from errors


async def _all_left(
    session: MonthSession, commits: GroupCommit, after_id: int, left: int
) -> AsyncIterator[Bill]:
    while page := await commits.in_turn(
        partial(session.page, TO_DRIVE, after_id=after_id, limit=min(left, PAGE_ROWS))
    ):
        for bill in page:
            yield bill
        after_id, left = page[-1].id, left - len(page)


async def drive_one(drive: Drive, report: BillingReport, outcome: Outcome) -> None:
    """Drive one bill and report what became of it."""
    try:
        bill = await drive.run()
    except Unfinished as unfinished:
        outcome.unfinished[drive.bill.user_id] = str(unfinished)
        report.not_invoiced()
        return
    if bill.state in {State.FAILED, State.PARKED}:
        report.not_invoiced()
    else:
        outcome.invoiced += 1
        report.invoiced(bill)


class _Line:
    """The customers whose bills are under way, and the last bill that waits for each.

    Bills that wait are not kept but read again when it is their turn: however many a customer has, the line
    holds no more than the customers in the queue and at work.
    """

    def __init__(self, session: MonthSession, commits: GroupCommit) -> None:
        self._session = session
        self._commits = commits
        self._last_ids: dict[str | None, int] = {}

    def may_start(self, bill: Bill) -> bool:
        """Return whether no earlier bill of the customer is under way; else the bill waits behind it."""
        starts = bill.stripe_customer_id not in self._last_ids
        self._last_ids[bill.stripe_customer_id] = bill.id
        return starts

    async def from_first(self, bill: Bill) -> AsyncIterator[Bill]:
        """Give a bill that may start, then those that wait behind it, until none is left."""
        yield bill
        done_id = bill.id
        while (last_id := self._last_ids[bill.stripe_customer_id]) > done_id:
            page = await self._commits.in_turn(partial(self._page, bill, done_id, last_id))
            for waiting in page:
                yield waiting
            done_id = page[-1].id if len(page) == _LINE_ROWS else last_id
        del self._last_ids[bill.stripe_customer_id]

    def _page(self, like: Bill, after_id: int, up_to_id: int) -> list[Bill]:
        ids = range(after_id + 1, up_to_id + 1)
        with self._session.writing() as connection:
            return read_bills_of_customer(connection, like, TO_DRIVE, ids=ids, limit=_LINE_ROWS)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
