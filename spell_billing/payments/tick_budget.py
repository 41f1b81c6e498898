"""How much one tick of the sensor may do: requests, and time."""

import time
from collections.abc import Callable


class Budget:
    """Requests and seconds that a tick has left. What does not fit is for the next tick."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends_at = clock() + seconds

    @property
    def in_time(self) -> bool:
        """Whether another request may begin."""
        return self._clock() < self._ends_at
