"""Progress of long work: shown to a watcher, or else logged every few seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LOG_EVERY_SECONDS = 5.0


Watcher = Callable[[str, int, int | None], None]
"""Shows that in a step, such as `invoices`, this many are done of a total (None: unknown)."""


# A context variable, not a Dagster resource: nobody who materializes an asset should have to bring a watcher.
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Let a watcher see the progress of everything that this context runs."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class Progress:
    """Counts a step's work and passes it on: to the context's watcher, or every few seconds to the log."""

    def __init__(
        self,
        step: str,
        total: int | None,
        log: Callable[[str], object],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step = step
        self._total = total
        self._log = log
        self._clock = clock
        self._started = self._logged = clock()
        self._done = 0
        # Threads that the work uses have a context of their own, in which nobody watches.
        self._watcher = _watcher.get()

    def advance(self, by: int = 1) -> None:
        """Count finished work."""
        self.reached(self._done + by)

    def reached(self, done: int, total: int | None = None) -> None:
        """Take how much is done in all, and how much there is, where that turned out meanwhile."""
        self._done = done
        self._total = self._total if total is None else total
        if self._watcher is not None:
            self._watcher(self._step, done, self._total)
            return
        now = self._clock()
        if now - self._logged < _LOG_EVERY_SECONDS:
            return
        self._logged = now
        rate = done / max(now - self._started, 1e-9)
        text = f"{done:,} {self._step}, {rate:,.0f}/s"
        if self._total is not None and rate:
            left = self._total - done
            text += f", {left:,} left, about {left / rate:,.0f} s"
        self._log(text)
