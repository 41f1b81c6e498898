"""Time that passes only when everyone sleeps, and a Stripe that answers from a script."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import pytest

from spell_billing.stripe_api.client import Answer

Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


class _Selector(selectors.DefaultSelector):
    """Where the real one would wait, the clock moves on."""

    now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self.now += timeout
            timeout = 0
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(timeout)
        return ready


@pytest.fixture
def run() -> Run:
    """Give `run(main)`: runs a coroutine function whose sleeps take no real time.

    Inside, `asyncio.get_running_loop().time` is the clock.
    """

    def in_virtual_time(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        selector = _Selector()

        def make_loop() -> asyncio.AbstractEventLoop:
            loop = asyncio.SelectorEventLoop(selector)
            loop.time = lambda: selector.now  # type: ignore[method-assign]
            return loop

        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(main())

    return in_virtual_time


class ScriptedStripe:
    """Answers each request with the next of its outcomes; the last one stays."""

    def __init__(self, outcomes: Sequence[Exception | Mapping[str, Any]]) -> None:
        self._outcomes = list(outcomes)
        self.requests: list[tuple[float, str, str, Any, str | None]] = []

    async def send(
        self, method: str, path: str, parameters: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> Answer:
        now = asyncio.get_running_loop().time()
        self.requests.append((now, method, path, parameters, key))
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return Answer(outcome, f"req_{len(self.requests)}", replayed=False)


@pytest.fixture
def scripted() -> type[ScriptedStripe]:
    return ScriptedStripe
