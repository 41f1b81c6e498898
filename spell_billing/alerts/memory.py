"""What went out on which channels, for as long as this process lives: where no ledger can be asked."""

from collections import defaultdict
from datetime import UTC, datetime


class AlertMemory:
    """Stands in for `AlertLog`. An alert that it knows of may go out once more when the process is new."""

    def __init__(self) -> None:
        self._channels: defaultdict[str, set[str]] = defaultdict(set)
        self._last: dict[str, datetime] = {}

    def channels_of(self, key: str) -> frozenset[str]:
        """Return the channels that an alert went out on."""
        return frozenset(self._channels.get(key, ()))

    def last_sent(self, channel: str) -> datetime | None:
        """Say when a channel last took an alert of this process."""
        return self._last.get(channel)

    def record(self, *, key: str, channel: str, kind: str, month: str | None, text: str) -> None:  # noqa: ARG002 - as AlertLog's
        """Note that an alert went out on a channel."""
        self._channels[key].add(channel)
        self._last[channel] = datetime.now(UTC)


MEMORY = AlertMemory()
"""This process's: a sensor's ticks run in one code server, one after the other."""
