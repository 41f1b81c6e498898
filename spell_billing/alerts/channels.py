"""Alerts on all channels: each once, a channel that fails named on the others, and tried again later."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

from pydantic import SecretStr

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.channel import Channel, open_channels
from spell_billing.alerts.memory import AlertMemory
from spell_billing.alerts.redact import redact
from spell_billing.core.errors import AlertError
from spell_billing.ledger.alerts import AlertLog

LOG_CHANNEL = "log"
"""Where alerts go when there is no channel."""

FAILURES_AT_ONCE = 2
"""A channel that failed so often is not tried again by the same `Alerts`: each try may take seconds."""


class Alerts:
    """The way to people, for one tick or one run.

    Args:
        urls: Apprise's URL of each channel; with none, alerts are written to `log`.
        sent: What went out before.
        log: Where alerts go that have no channel.
    """

    def __init__(self, urls: Sequence[SecretStr], sent: AlertLog | AlertMemory, log: logging.Logger) -> None:
        self._urls = urls
        self._sent = sent
        self._log = log
        self._failures = Counter[str]()
        self._last_problem: dict[str, str] = {}

    def send(self, alert: Alert) -> None:
        """Send an alert on every channel that has not had it.

        Raises:
            AlertError: naming the channels that did not take it, after all were tried. Send it again later:
                the channels that took it do not get it twice.
        """
        had = self._sent.channels_of(alert.key)
        if not self._urls:
            if LOG_CHANNEL not in had:
                self._log.warning("%s\n%s", *_texts(alert))
                self._record(alert, LOG_CHANNEL)
            return
        failed = self._send(alert, [channel for channel in self._channels if channel.name not in had])
        if failed:
            failed |= self._report(failed)
            raise AlertError(
                f"The alert {redact(alert.title)!r} did not go out on "
                + "; ".join(f"{name}: {problem}" for name, problem in failed.items())
                + ".",
                remedy="Check ALERT_URLS with `spell-billing alert-test`. It is tried again by itself.",
            )

    @cached_property
    def _channels(self) -> list[Channel]:
        return open_channels(self._urls)

    def _send(self, alert: Alert, channels: Sequence[Channel]) -> dict[str, str]:
        """Send on the given channels; give what is wrong with those that failed, by name."""
        title, body = _texts(alert)
        failed = {}
        for channel in channels:
            if self._failures[channel.name] < FAILURES_AT_ONCE:
                problem = channel.deliver(title, body)
                if problem is None:
                    self._record(alert, channel.name)
                    continue
                self._failures[channel.name] += 1
                self._last_problem[channel.name] = problem
            failed[channel.name] = self._last_problem[channel.name]
        return failed

    def _report(self, failed: Mapping[str, str]) -> dict[str, str]:
        """Tell the other channels of those that failed, once per outage; give those that failed at that."""
        failed_too: dict[str, str] = {}
        for name, problem in failed.items():
            # An outage begins with the last alert that the channel took.
            last = self._sent.last_sent(name)
            outage = Alert(
                key=f"alert_channel:{name}:{last.isoformat() if last else 'never'}",
                kind="alert_channel",
                title=f"Alerts do not reach {name}",
                body=f"{problem}.\nThey are tried again by themselves, and go out on the other channels "
                "meanwhile.\nNext: correct ALERT_URLS, then spell-billing alert-test",
            )
            had = self._sent.channels_of(outage.key)
            others = [
                channel
                for channel in self._channels
                if channel.name not in had and channel.name not in failed and channel.name not in failed_too
            ]
            failed_too |= self._send(outage, others)
        return failed_too

    def _record(self, alert: Alert, channel: str) -> None:
        text = "\n".join(_texts(alert))
        self._sent.record(key=alert.key, channel=channel, kind=alert.kind, month=alert.month, text=text)


def _texts(alert: Alert) -> tuple[str, str]:
    return redact(alert.title), redact(alert.body)
