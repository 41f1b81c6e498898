"""The double's own clock: it runs like the real one, and tests move it."""

from collections.abc import Callable
from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


class Clock:
    """A clock that can be shifted; drives `created`, event retention and idempotency expiry."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._shift_seconds = 0

    def shift(self, seconds: int) -> None:
        """Move the clock by whole seconds (negative: back)."""
        self._shift_seconds += seconds

    def unix(self) -> int:
        """Return the double's time in Unix seconds."""
        return int(self._now().timestamp()) + self._shift_seconds
