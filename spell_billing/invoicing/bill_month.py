"""Bills one month: sweep, pin, then drive every bill that is left, and say what became of each.

Many bills are sent at once, those of one Stripe customer one after the other: Stripe locks a customer while
a write on one of its invoices is under way, and answers a second one meanwhile with a 429 `lock_timeout`
(https://docs.stripe.com/rate-limits#object-lock-timeouts).
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from functools import partial

from spell_billing.core.errors import StripeAccountError
from spell_billing.core.late import BillOf, Usage
from spell_billing.core.month import Month
from spell_billing.core.outcomes import TO_DRIVE, State
from spell_billing.invoicing import lookups
from spell_billing.invoicing.commits import GroupCommit
from spell_billing.invoicing.drive import Drive, Unfinished
from spell_billing.invoicing.gateway import Gateway, require_same
from spell_billing.invoicing.older_ledger import (
    hold_where_decisions_are_lost,
    note_lost_decisions,
    require_nothing_skipped,
)
from spell_billing.invoicing.report import BillingReport, Outcome
from spell_billing.invoicing.sweep import sweep
from spell_billing.ledger.queries import read_bills_of_customer
from spell_billing.ledger.rows import Bill
from spell_billing.ledger.session import MonthSession
from spell_billing.ledger.stripe_account import StripeAccount, read_account

CONCURRENT_BILLS = 64
"""Enough to keep 75 requests a second under way at Stripe's latency of about 0.3 seconds."""

_CLOCKS_APART = timedelta(hours=1)
"""How far this machine's clock may be ahead of Stripe's."""

PAGE_ROWS = 500
_LINE_ROWS = 20
"""How many waiting bills of one customer are read at a time."""


@dataclass
class Pinning:
    """Pins a month to what was frozen and drafted, and takes that back where nothing came of it.

    `exclusive` keeps others from drafting or pinning their months meanwhile; `require` refuses drafts that
    another month has overtaken.
    """

    session: MonthSession
    exclusive: Callable[[], AbstractContextManager[object]] = nullcontext
    require: Callable[[], None] = lambda: None
    is_pinned: bool = False
    """Whether this run has pinned the month, or found it pinned when it came to that."""

    def pin(self, account: StripeAccount | None = None) -> bool:
        """Pin the month, to be billed in an account; False when this run or an earlier one pinned it before.

        Raises:
            StripeAccountError: when a run of another month has meanwhile recorded an account in its place.
        """
        if self.is_pinned:
            return False
        self.is_pinned = True
        with self.exclusive():
            self.require()
            recorded = self.session.write(read_account)
            if recorded is not None and account is not None:
                require_same(recorded, account)
            return self.session.start_billing()

    def take_back(self) -> None:
        """Undo the pin: Stripe refused to make the first invoice."""
        with self.exclusive():
            self.session.take_back_start()


async def bill_month(
    session: MonthSession,
    gateway: Gateway,
    report: BillingReport,
    *,
    verify: bool = False,
    first: int | None = None,
    outcome: Outcome | None = None,
    pinning: Pinning | None = None,
    recorded: Callable[[], Mapping[BillOf, Usage]] = dict,
    holds_if_older: bool = False,
) -> Outcome:
    """Drive the month's bills to finalized invoices. On a finished month nothing is sent.

    The month is pinned right before its first invoice is made: a run that Stripe does not let come so far
    leaves it as it was, and the next one freezes it anew. So it does after a run that certainly made nothing
    of the month, as where Stripe knows none of the customers. A month that is not recorded as billed is swept
    even when no bill is left: the run before may have died before it had deleted a draft that no bill uses.

    With `verify` even a finished month is swept; `first` limits how many bills are sent, by their ids. The
    outcome is filled on the way, for a caller who wants it of a run that raises, too. For `recorded` see
    `sweep`. With `holds_if_older`, a ledger that is older than invoices at Stripe sends nothing of the month.

    Raises:
        StripeAccountError: nobody can be billed, rows stay as they are; StripeSilentError: for now.
        LedgerError: the ledger was lost on the way, or lacks an earlier month that Stripe has invoices of.
    """
    outcome, pinning = outcome or Outcome(), pinning or Pinning(session)
    if not verify and await asyncio.to_thread(_is_finished, session):
        outcome.sent_nothing = True
        return outcome

    async def pin() -> bool:
        return await asyncio.to_thread(pinning.pin, gateway.account)

    try:
        note_older = partial(note_lost_decisions, session) if holds_if_older else lambda: None
        with lookups.asking(
            f"Stripe cannot be asked what stands for {session.month}",
            remedy="Check the network, STRIPE_API_BASE and Stripe's status page, then bill the month again.",
        ):
            await require_nothing_skipped(session, gateway)
            outcome.sweep = await sweep(session, gateway, pin, recorded, note_older)
        report.swept(outcome.sweep)
        _require_over(session.month, gateway.date)
        if holds_if_older:
            await asyncio.to_thread(hold_where_decisions_are_lost, session)
        # The sweep pins it before it takes anything up.
        something_stands = pinning.is_pinned
        pinned_now = await pin()
        async with GroupCommit(session) as commits:
            driving = Driving(session, gateway, commits, report, outcome)
            tried = await driving.drive_first(pinning) if pinned_now else 0
            left = sys.maxsize if first is None else first - (tried > 0)
            await driving.drive_all(after_id=tried, most=left)
        if not (something_stands or outcome.invoiced or outcome.unfinished or gateway.unknown_writes):
            await asyncio.to_thread(_note_nothing_made, session, began=pinned_now)
    finally:
        outcome.requests, outcome.limited = dict(gateway.requests), gateway.limited
    return outcome


def _require_over(month: Month, date: str) -> None:
    """Refuse a month that is not over by Stripe's clock: this machine's is ahead.

    Its invoices would have a time before the month's end, where no later run looks for them.
    """
    try:
        # HTTP has no other zone.
        now = parsedate_to_datetime(date).replace(tzinfo=UTC)
    except ValueError:
        return
    if month.end - now > _CLOCKS_APART:
        raise StripeAccountError(
            f"{month} is not over: Stripe's clock says {now:%Y-%m-%d %H:%M} UTC, this machine's is ahead.",
            remedy="Nothing was sent. Set this machine's clock, then bill the month again.",
        )


def _is_finished(session: MonthSession) -> bool:
    record = session.record()
    billed = record is not None and record.billed_at is not None
    return billed and not session.page(TO_DRIVE, after_id=0, limit=1)


def _note_nothing_made(session: MonthSession, *, began: bool) -> None:
    """Note that nothing of the month is at Stripe, which had nothing before this run, nor got it in this run.

    Where another run `began` it, a bill that is left may be the one at which that run was killed.
    """
    if session.has_left_something() or (not began and session.page(TO_DRIVE, after_id=0, limit=1)):
        return
    session.note_nothing_made()


@dataclass(slots=True)
class Driving:
    """Drives the bills of one run.

    `_last_ids` has the customers whose bills are under way, and the last bill that waits for each. Bills that
    wait are not kept but read again when it is their turn: however many a customer has, memory holds no more
    than the customers in the queue and at work.
    """

    session: MonthSession
    gateway: Gateway
    commits: GroupCommit
    report: BillingReport
    outcome: Outcome
    _last_ids: dict[str | None, int] = field(default_factory=dict)

    async def drive_first(self, pinning: Pinning) -> int:
        """Drive the first bill alone, with nothing else under way; return its id, 0 where there is none."""
        for bill in await self._page(after_id=0, limit=1):
            drive = Drive(self.gateway, self.commits, bill)
            try:
                await self.drive_one(drive)
            except StripeAccountError as error:
                nothing_made = drive.bill.state is State.PLANNED and not self.gateway.unknown_writes
                if nothing_made and not error.transient:
                    await self.commits.in_turn(pinning.take_back)
                raise
            return bill.id
        return 0

    async def drive_all(self, *, after_id: int, most: int) -> None:
        """Drive up to `most` bills that are left after an id, by their ids."""
        queue: asyncio.Queue[Bill | None] = asyncio.Queue(maxsize=PAGE_ROWS)

        async def feed() -> None:
            async for bill in self._left(after_id, most):
                starts = bill.stripe_customer_id not in self._last_ids
                self._last_ids[bill.stripe_customer_id] = bill.id
                if starts:
                    await queue.put(bill)
            for _ in range(CONCURRENT_BILLS):
                await queue.put(None)

        async def work() -> None:
            while (first := await queue.get()) is not None:
                async for bill in self._in_line(first):
                    await self.drive_one(Drive(self.gateway, self.commits, bill))

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(feed())
                for _ in range(CONCURRENT_BILLS):
                    tasks.create_task(work())
        except ExceptionGroup as errors:
            # Not `except*`: Python 3.11.2 would wrap the one that is raised in a group again.
            raise errors.exceptions[0] from errors

    async def drive_one(self, drive: Drive) -> None:
        """Drive one bill and report what became of it."""
        try:
            bill = await drive.run()
        except Unfinished as unfinished:
            self.outcome.unfinished[drive.bill.user_id] = str(unfinished)
            self.report.not_invoiced()
            return
        if bill.state in {State.FAILED, State.PARKED}:
            self.report.not_invoiced()
        else:
            self.outcome.invoiced += 1
            self.report.invoiced(bill)

    async def _left(self, after_id: int, most: int) -> AsyncIterator[Bill]:
        while page := await self._page(after_id=after_id, limit=min(most, PAGE_ROWS)):
            for bill in page:
                yield bill
            after_id, most = page[-1].id, most - len(page)

    async def _page(self, *, after_id: int, limit: int) -> list[Bill]:
        return await self.commits.in_turn(
            partial(self.session.page, TO_DRIVE, after_id=after_id, limit=limit)
        )

    async def _in_line(self, bill: Bill) -> AsyncIterator[Bill]:
        """Yield a bill whose customer has no other under way, then those that wait behind it."""
        yield bill
        done_id = bill.id
        while (last_id := self._last_ids[bill.stripe_customer_id]) > done_id:
            waiting = await self.commits.in_turn(partial(self._of_customer, bill, done_id, last_id))
            for each in waiting:
                yield each
            done_id = waiting[-1].id if len(waiting) == _LINE_ROWS else last_id
        del self._last_ids[bill.stripe_customer_id]

    def _of_customer(self, like: Bill, after_id: int, up_to_id: int) -> list[Bill]:
        ids = range(after_id + 1, up_to_id + 1)
        return self.session.write(read_bills_of_customer, like, TO_DRIVE, ids=ids, limit=_LINE_ROWS)
