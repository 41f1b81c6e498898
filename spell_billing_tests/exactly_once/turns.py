"""Two runs in one event loop, whose requests to Stripe take turns in an order that a seed decides."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from spell_billing.invoicing.report import Outcome
from spell_billing.stripe_api.client import Answer, StripeApi
from spell_billing_tests.exactly_once.billing import Run, opened, send

_SETTLE_SECONDS = 0.001
"""Between two requests: the ledgers' commits, which run in threads, get their chance."""


class _Turns:
    def __init__(self, seed: int) -> None:
        # Not for secrets: the order must be the same in every run.
        self._random = random.Random(seed)  # noqa: S311 - see the comment above
        self._waiting: list[asyncio.Future[None]] = []
        self._served = asyncio.Event()

    async def take(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def done(self) -> None:
        self._served.set()

    async def give(self) -> None:
        while True:
            await asyncio.sleep(_SETTLE_SECONDS)
            self._waiting = [turn for turn in self._waiting if not turn.done()]
            if self._waiting:
                self._served.clear()
                self._random.choice(self._waiting).set_result(None)
                await self._served.wait()


class _InTurns(StripeApi):
    def __init__(self, turns: _Turns, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._turns = turns

    async def send(
        self, method: str, path: str, parameters: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> Answer:
        await self._turns.take()
        try:
            return await super().send(method, path, parameters, key=key)
        finally:
            self._turns.done()


def bill_in_turns(seed: int, *runs: Run) -> list[Outcome]:
    """Do several runs at once, one request at a time, in a random order of all that wait to be sent."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(opened(run))[1] for run in runs]

        async def all_runs() -> list[Outcome]:
            turns = _Turns(seed)
            giving = asyncio.create_task(turns.give())
            try:
                return await asyncio.gather(
                    *(
                        send(session, run, partial(_InTurns, turns))
                        for session, run in zip(sessions, runs, strict=True)
                    )
                )
            finally:
                giving.cancel()

        return asyncio.run(all_runs())
