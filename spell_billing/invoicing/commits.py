"""Group commit: many bills' changes become durable in one transaction of the ledger."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Self, TypeVar

from spell_billing.ledger.rows import Bill, Change
from spell_billing.ledger.session import MonthSession

_LARGEST_GROUP = 500

T = TypeVar("T")


class GroupCommit:
    """Collects changes while a transaction is under way and writes them with the next one."""

    def __init__(self, session: MonthSession) -> None:
        self._session = session
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Queue[tuple[Change, asyncio.Future[Bill]]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker

    async def write(self, change: Change) -> Bill:
        """Return the bill as it is now when the change is durable; an error says that it was not written."""
        future: asyncio.Future[Bill] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((change, future))
        return await future

    async def in_turn(self, call: Callable[[], T]) -> T:
        """Run a call of the session in a thread: one at a time, and to its end even when cancelled."""
        async with self._turn:
            running = asyncio.create_task(asyncio.to_thread(call))
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                # The thread cannot be stopped: the next caller must find the session free.
                while not running.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait({running})
                running.exception()
                raise

    async def _work(self) -> None:
        while True:
            group = [await self._waiting.get()]
            while not self._waiting.empty() and len(group) < _LARGEST_GROUP:
                group.append(self._waiting.get_nowait())
            changes = [change for change, _ in group]
            try:
                bills = await self.in_turn(partial(self._session.apply, changes))
            except Exception as error:  # noqa: BLE001 - handed to everyone who waits for it
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), bill in zip(group, bills, strict=True):
                    if not future.done():
                        future.set_result(bill)
