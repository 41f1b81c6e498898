"""How long requests took: a count, a sum and a histogram, cheap enough to keep for every request."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BOUNDS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram's buckets; one more bucket holds what took longer."""


@dataclass(slots=True)
class Latencies:
    """Durations of requests: how many, their sum, and how many up to each of `BOUNDS_SECONDS`, or longer."""

    count: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_SECONDS) + 1))

    def observe(self, seconds: float) -> None:
        """Count one request."""
        self.count += 1
        self.seconds += seconds
        self.buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1

    def add(self, other: "Latencies") -> None:
        """Count the requests of another."""
        self.count += other.count
        self.seconds += other.seconds
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]

    @property
    def mean_seconds(self) -> float:
        """The mean duration; 0 without requests."""
        return self.seconds / self.count if self.count else 0.0

    def quantile_seconds(self, share: float) -> float:
        """Estimate the duration that this share (0.95) of the requests did not exceed, as Prometheus does it.

        Within a bucket durations count as evenly spread. What lies beyond the last bound is given as that
        bound; 0 without requests.
        """
        rank, below, lower = share * self.count, 0, 0.0
        for upper, inside in zip(BOUNDS_SECONDS, self.buckets, strict=False):
            if inside and below + inside >= rank:
                return lower + (upper - lower) * (rank - below) / inside
            below, lower = below + inside, upper
        return lower if self.count else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the numbers for storage."""
        return {"count": self.count, "seconds": round(self.seconds, 6), "buckets": self.buckets}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Latencies":
        """Read what `as_json` gave."""
        return cls(int(content["count"]), float(content["seconds"]), [int(n) for n in content["buckets"]])


def together(all_of_them: Iterable[Latencies]) -> Latencies:
    """Return many as one."""
    total = Latencies()
    for each in all_of_them:
        total.add(each)
    return total
