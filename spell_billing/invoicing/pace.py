"""Pacing: no faster than Stripe allows, slower when it says so, and back again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

_SLOWER = 0.7
_SLOWEST_PER_SECOND = 1.0
_REST_SECONDS = 1.0
"""Answers to requests already under way arrive in a burst: it counts as one sign, not as many."""
_MADE_UP_SECONDS = 0.01
"""Sleep ends a millisecond or two late: a slot so recent is still used, or the rate would fall by 4 %."""
_SHARE = 0.99
"""Of the rate; so much less that slots made up never bring more into a second than the rate allows."""
_RECOVERY_PER_SECOND = 0.05
"""Share of the ceiling regained each second without a 429."""
_RECHECK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests per second: of the whole account, and of one endpoint."""

    account_per_second: float
    endpoint_per_second: float


LIVE = Limits(100.0, 25.0)
SANDBOX = Limits(25.0, 25.0)
LOOPBACK = Limits(5_000.0, 5_000.0)
"""Stripe's documented limits for live keys and sandboxes; a server on this machine has none of its own."""


class Pace:
    """A limiter for the account and one for each endpoint."""

    def __init__(
        self,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limits, self._parts = limits, 1
        self._clock = clock
        self._sleep = sleep
        self._account = _Bucket(limits.account_per_second, clock())
        self._endpoints: dict[str, _Bucket] = {}

    def share(self, runs: int) -> None:
        """Take one part of the limits, as one of several runs at the same account."""
        self._parts = runs
        self._account.set_ceiling(self._limits.account_per_second / runs)
        for bucket in self._endpoints.values():
            bucket.set_ceiling(self._limits.endpoint_per_second / runs)

    async def wait(self, endpoint: str) -> None:
        """Return when a request to the endpoint may be sent: first come, first served."""
        bucket = self._endpoint(endpoint)
        # Only the first in an endpoint's line takes a slot of the account: slots taken far ahead would be
        # used late, and then faster than one of the two limits allows.
        async with bucket.turn:
            await self._sleep_until(bucket.next_slot(self._clock()))
            slot = self._account.next_slot(self._clock())
            self._account.take(slot)
            await self._sleep_until(slot)
            bucket.take(slot)

    async def _sleep_until(self, moment: float) -> None:
        delay_seconds = moment - self._clock()
        if delay_seconds > 0:
            await self._sleep(delay_seconds)

    def slow_down(self, endpoint: str, limited_by: str) -> None:
        """Heed a 429: of the account when Stripe names a global limit, else of the endpoint.

        A `lock_timeout` is no matter of pace: another request was at the same object.
        """
        if limited_by == "lock_timeout":
            return
        bucket = self._account if limited_by.startswith("global") else self._endpoint(endpoint)
        bucket.slow_down(self._clock())

    def rate_per_second(self, endpoint: str) -> float:
        """Return the rate at which the endpoint is called at the most right now."""
        return min(self._account.rate, self._endpoint(endpoint).rate)

    def _endpoint(self, endpoint: str) -> "_Bucket":
        bucket = self._endpoints.get(endpoint)
        if bucket is None:
            rate = self._limits.endpoint_per_second / self._parts
            bucket = self._endpoints[endpoint] = _Bucket(rate, self._clock())
        return bucket


class _Bucket:
    def __init__(self, ceiling: float, now: float) -> None:
        self.rate = self._ceiling = ceiling
        self._free_at = now
        self._recovering_since = now
        self._sent = 0
        self._counted_since = now
        self._slowed_at = now - _REST_SECONDS
        self.turn = asyncio.Lock()

    def set_ceiling(self, ceiling: float) -> None:
        """Move the ceiling, and the rate in proportion."""
        self.rate *= ceiling / self._ceiling
        self._ceiling = ceiling

    def next_slot(self, now: float) -> float:
        self._recover(now)
        return max(self._free_at, now - _MADE_UP_SECONDS)

    def take(self, slot: float) -> None:
        self._sent += 1
        self._free_at = slot + 1.0 / (_SHARE * self.rate)

    def slow_down(self, now: float) -> None:
        if now - self._slowed_at < _REST_SECONDS:
            return
        # Far below a ceiling that was a guess, cut from the rate really reached.
        reached = self._sent / max(now - self._counted_since, _REST_SECONDS)
        slower = max(_SLOWEST_PER_SECOND, min(self.rate, reached) * _SLOWER)
        self.rate = min(self.rate, slower)
        self._slowed_at = self._recovering_since = self._counted_since = now
        self._sent = 0

    def _recover(self, now: float) -> None:
        if self.rate < self._ceiling:
            gained = (now - self._recovering_since) * _RECOVERY_PER_SECOND * self._ceiling
            self.rate = min(self._ceiling, self.rate + gained)
        self._recovering_since = now


@contextlib.asynccontextmanager
async def shared(
    pace: Pace, months_held: Callable[[], int], *, recheck_seconds: float = _RECHECK_SECONDS
) -> AsyncIterator[Pace]:
    """Keep a pace at its equal part of the account's limits, of all runs on one ledger, while the block runs.

    `months_held` counts the months that are held in the ledger, in a thread, which needs no clock of another
    host. For a few seconds after a run began the others do not know of it yet; a 429 then slows them down.

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
