"""Alerts on all channels: each once, a channel that fails named on the others, and tried again later."""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

from pydantic import SecretStr

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.channel import open_channels
from spell_billing.core.errors import AlertError
from spell_billing.ledger.outbox import ALERTS, Message, Outbox

LOG_CHANNEL = "log"
"""Where alerts go when there is no channel."""

FAILURES_AT_ONCE = 2
"""A channel that failed so often is not tried again by the same `Alerts`: each try may take seconds."""


class Alerts:
    """Delivers alerts, for one tick or one run.

    Args:
        urls: Apprise's URL of each channel; with none, alerts are written to `log`.
        outbox: What waits and what went out.
        log: Where alerts go that have no channel.

    `sent` has the keys of the alerts that went out by this object on some channel.
    """

    def __init__(self, urls: Sequence[SecretStr], outbox: Outbox, log: logging.Logger) -> None:
        self._urls = urls
        self._outbox = outbox
        self._log = log
        self._problems: defaultdict[str, list[str]] = defaultdict(list)
        self.sent: set[str] = set()

    def send(self, alert: Alert) -> None:
        """Send an alert, as `send_all`."""
        self.send_all([alert])

    def send_all(self, found: Iterable[Alert] = (), *, kind: str | None = None) -> int:
        """Put alerts into the outbox, and send them on every channel that has not had them; count them.

        Of a `kind` that the caller has put into the outbox itself, what waits is sent too.

        Raises:
            AlertError: naming the channels that did not take all, after all were tried. Send it again later:
                the channels that took it do not get it twice.
        """
        keys = set()
        for alert in found:
            keys.add(alert.key)
            self._outbox.put([alert.on(name) for name in self._channels])
        for stored in self._outbox.due([ALERTS], (), kind) if kind else ():
            self._outbox.put([replace(stored, channel=name) for name in self._channels])
            self._outbox.record(stored, None)
        failed = self._deliver(self._channels, keys, kind) if keys or kind else []
        if failed:
            title = failed[0][0].payload["title"]
            failed += self._report({message.channel for message, _ in failed})
            problems = {message.channel: problem for message, problem in failed}
            raise AlertError(
                f"The alert {title!r} did not go out on "
                + "; ".join(f"{name}: {problem}" for name, problem in problems.items())
                + ".",
                remedy="Check ALERT_URLS with `spell-billing alert-test`. It is tried again by itself.",
            )
        return len(keys)

    @cached_property
    def _channels(self) -> Mapping[str, Callable[[str, str], str | None]]:
        """Return what delivers a title and a body, by channel, and gives what is wrong."""
        if not self._urls:
            return {LOG_CHANNEL: partial(self._log.warning, "%s\n%s")}
        return {channel.name: channel.deliver for channel in open_channels(self._urls)}

    def _deliver(
        self, names: Collection[str], keys: Collection[str], kind: str | None = None
    ) -> list[tuple[Message, str]]:
        """Send what is due on channels; return what failed, with what is wrong."""
        failed = []
        for message in self._outbox.due(names, keys, kind):
            name = message.channel
            if len(self._problems[name]) < FAILURES_AT_ONCE:
                problem = self._channels[name](message.payload["title"], message.payload["body"])
                self._outbox.record(message, problem)
                if problem is None:
                    self.sent.add(message.key)
                    continue
                self._problems[name].append(problem)
            failed.append((message, self._problems[name][-1]))
        return failed

    def _report(self, failed: set[str]) -> list[tuple[Message, str]]:
        """Name the channels that failed on the others, once per outage; return what failed of that."""
        others, keys = [name for name in self._channels if name not in failed], set()
        for name in sorted(failed):
            # An outage begins with the last alert that the channel took.
            last = self._outbox.last_sent(name)
            outage = Alert(
                key=f"alert_channel:{name}:{last.isoformat() if last else 'never'}",
                kind="alert_channel",
                title=f"Alerts do not reach {name}",
                body=f"{self._problems[name][-1]}.\nThey are tried again by themselves, and go out on the "
                "other channels meanwhile.\nNext: correct ALERT_URLS, then spell-billing alert-test",
            )
            self._outbox.put([outage.on(other) for other in others])
            keys.add(outage.key)
        return self._deliver(others, keys)
