"""Shares the account's rate between all runs that bill on one ledger: each takes an equal part."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from spell_billing.invoicing.pace import Pace

RECHECK_SECONDS = 5.0


@asynccontextmanager
async def shared(
    pace: Pace, months_held: Callable[[], int], *, recheck_seconds: float = RECHECK_SECONDS
) -> AsyncIterator[Pace]:
    """Keep a pace at its part of the limits while the block runs.

    The months that are held in the ledger are counted, which needs no clock of another host. For a few
    seconds after a run began the others do not know of it yet; a 429 then slows them down.

    Args:
        pace: Of the whole account.
        months_held: Counts the months that are held now; called in a thread.
        recheck_seconds: How often they are counted.

    Raises:
        DatabaseUnreachableError: when they cannot be counted at first; later the part stays as it was.
    """

    async def divide() -> None:
        pace.share(max(1, await asyncio.to_thread(months_held)))

    async def keep_dividing() -> None:
        while True:
            await asyncio.sleep(recheck_seconds)
            # Only the pace depends on it: a run goes on as it was, and finds out itself what is wrong.
            with contextlib.suppress(Exception):
                await divide()

    await divide()
    dividing = asyncio.create_task(keep_dividing())
    try:
        yield pace
    finally:
        dividing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await dividing
