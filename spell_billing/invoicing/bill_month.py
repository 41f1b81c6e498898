"""Bills one month: sweep, pin, then drive every bill that is left, and say what became of each."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from spell_billing.core.errors import StripeAccountError, StripeSilentError
from spell_billing.core.outcomes import TO_DRIVE, State
from spell_billing.invoicing.commits import GroupCommit
from spell_billing.invoicing.drive import Drive
from spell_billing.invoicing.drive_all import drive_all, drive_one
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.report import BillingReport, Outcome, SweepResult
from spell_billing.invoicing.sweep import sweep
from spell_billing.ledger.session import MonthSession
from spell_billing.stripe_api.problems import Kind, StripeProblem


class Pinning:
    """Pins a month to what was frozen and drafted, and takes that back where nothing came of it.

    `exclusive` keeps others from drafting or pinning their months meanwhile; `require` refuses drafts that
    another month has overtaken.
    """

    def __init__(
        self,
        session: MonthSession,
        *,
        exclusive: Callable[[], AbstractContextManager[None]] = nullcontext,
        require: Callable[[], None] = lambda: None,
    ) -> None:
        self._session = session
        self._exclusive = exclusive
        self._require = require
        self._pinned = False

    async def pin(self) -> bool:
        """Pin the month; False when it was pinned before, by this run or an earlier one."""
        if self._pinned:
            return False
        self._pinned = True
        return await asyncio.to_thread(self._pin)

    def _pin(self) -> bool:
        with self._exclusive():
            self._require()
            return self._session.start_billing()

    def take_back(self) -> None:
        """Undo the pin: Stripe refused to make the first invoice."""
        with self._exclusive():
            self._session.take_back_start()


async def bill_month(
    session: MonthSession,
    gateway: Gateway,
    report: BillingReport,
    *,
    verify: bool = False,
    first: int | None = None,
    outcome: Outcome | None = None,
    pinning: Pinning | None = None,
) -> Outcome:
    """Drive the month's bills to finalized invoices. On a finished month nothing is sent.

    The month is pinned right before its first invoice is made: a run that Stripe does not let come so far
    leaves it as it was, and the next one freezes it anew. A month that is not recorded as billed is swept
    even when no bill is left: the run before may have died before it had deleted a draft that no bill uses.

    Args:
        session: Holds the month's lock.
        gateway: To Stripe.
        report: Told of every user.
        verify: Sweep even when the month is finished.
        first: Send no more than so many bills, by their ids; None for all.
        outcome: Filled on the way, for a caller who wants it of a run that raises, too.
        pinning: Pins the month.

    Raises:
        StripeAccountError: nobody can be billed, rows stay as they are; StripeSilentError: for now.
        LedgerError: the ledger was lost on the way.
    """
    outcome, pinning = outcome or Outcome(), pinning or Pinning(session)
    if not verify and await asyncio.to_thread(_is_finished, session):
        outcome.sent_nothing = True
        return outcome
    try:
        outcome.sweep = await _what_stands(session, gateway, pinning)
        report.swept(outcome.sweep)
        pinned_now = await pinning.pin()
        async with GroupCommit(session) as commits:
            tried = 0
            if pinned_now:
                tried = await _try_one(session, gateway, commits, pinning, report=report, outcome=outcome)
            most = None if first is None else first - (tried > 0)
            await drive_all(session, gateway, commits, report, outcome, after_id=tried, most=most)
    finally:
        outcome.requests, outcome.limited = dict(gateway.requests), gateway.limited
    return outcome


async def _what_stands(session: MonthSession, gateway: Gateway, pinning: Pinning) -> SweepResult:
    try:
        return await sweep(session, gateway, pinning.pin)
    except StripeProblem as problem:
        silent = problem.kind in {Kind.TRANSIENT, Kind.LIMITED}
        raise (StripeSilentError if silent else StripeAccountError)(
            f"Stripe cannot be asked what stands for {session.month}: {problem.message}.",
            remedy="Check the network, STRIPE_API_BASE and Stripe's status page, then bill the month again.",
        ) from None


def _is_finished(session: MonthSession) -> bool:
    record = session.record()
    billed = record is not None and record.billed_at is not None
    return billed and not session.page(TO_DRIVE, after_id=0, limit=1)


async def _try_one(
    session: MonthSession,
    gateway: Gateway,
    commits: GroupCommit,
    pinning: Pinning,
    *,
    report: BillingReport,
    outcome: Outcome,
) -> int:
    """Drive the first bill alone, so that nothing is under way where Stripe refuses; return its id, or 0."""
    for bill in await commits.in_turn(partial(session.page, TO_DRIVE, after_id=0, limit=1)):
        drive = Drive(gateway, commits, bill)
        try:
            await drive_one(drive, report, outcome)
        except StripeAccountError as error:
            if drive.bill.state is State.PLANNED and not gateway.unknown_writes and not error.transient:
                await commits.in_turn(pinning.take_back)
            raise
        return bill.id
    return 0
