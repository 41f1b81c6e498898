"""One thing that operators must know of, and the key under which it is sent once."""

from dataclasses import dataclass

from spell_billing.alerts.redact import redact
from spell_billing.ledger.outbox import ALERTS, Message

LONGEST_KEY = 200
"""Of `ledger_outbox.key`."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What is sent to operators.

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

    def on(self, channel: str = ALERTS) -> Message:
        """Return the message for a channel, by default for all; what looks secret is masked."""
        payload = {"title": redact(self.title), "body": redact(self.body)}
        return Message(self.key, channel, self.kind, payload, self.month)
