"""One thing that operators must know of, the key under which it is sent once, and the words alerts share."""

from dataclasses import dataclass

from spell_billing.alerts.redact import redact
from spell_billing.core.errors import SettingsError
from spell_billing.core.month import Month
from spell_billing.core.shown import one_line, printable
from spell_billing.ledger.outbox import ALERTS, Message
from spell_billing.settings.notifications import NotificationSettings

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
        payload = {"title": redact(one_line(self.title)), "body": redact(printable(self.body))}
        return Message(self.key, channel, self.kind, payload, self.month)


def body(*lines: str | None, run_id: str | None = None) -> str:
    """Join the lines that there are; with `run_id`, the link to that run's page comes last."""
    return "\n".join(line for line in (*lines, _link(run_id)) if line)


def bill_command(month: Month) -> str:
    """Return the command that bills a month."""
    return f"spell-billing bill --month {month}"


def users(number: int) -> str:
    """Write a number of users."""
    return "1 user" if number == 1 else f"{number:,} users"


def first_names(names: list[str], number: int) -> str:
    """Name the first of `number` users."""
    return ", ".join(map(one_line, names)) + (", ..." if number > len(names) else "")


def _link(run_id: str | None) -> str | None:
    if run_id is None:
        return None
    try:
        base = NotificationSettings.from_environment().dagster_public_url
    except SettingsError as error:
        # The alert matters more than its link.
        return f"(No link to the run: {error})"
    return f"{base}/runs/{run_id}" if base else None
