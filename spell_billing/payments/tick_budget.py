"""How much time one tick of the sensor has for requests."""

import time


class Budget:
    """The seconds that a tick has left. What does not fit is for the next tick."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def in_time(self) -> bool:
        """Whether another request may begin."""
        return time.monotonic() < self._ends_at
