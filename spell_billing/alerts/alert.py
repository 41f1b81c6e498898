"""One thing that a person must know of, and the key under which it is told once."""

from dataclasses import dataclass

LONGEST_KEY = 200
"""Of `ledger_alerts.key`."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What is told to people.

    Attributes:
        key: Names the occurrence; at most 200 characters. It is sent once on each channel.
        kind: The sensor or subject it comes from, as `billing_run_failed`.
        title: What happened, in one line.
        body: How much, who, and what to do next. Plain text; money in words, nothing secret.
        month: The month it is about, as 2026-10.
    """

    key: str
    kind: str
    title: str
    body: str
    month: str | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.key) <= LONGEST_KEY:
            raise ValueError(f"an alert's key has 1 to {LONGEST_KEY} characters, not {len(self.key)}")
