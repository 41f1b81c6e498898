"""Alerts on all channels, each an Apprise URL: sent once; a channel that fails is named on the others."""

import hashlib
import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from pydantic import SecretStr

from spell_billing.alerts.alert import Alert
from spell_billing.alerts.redact import redact, url_secrets
from spell_billing.core.errors import AlertError
from spell_billing.ledger.outbox import ALERTS, Message, Outbox

if TYPE_CHECKING:
    from apprise import Apprise
    from apprise.plugins.base import NotifyBase

LOG_CHANNEL = "log"
"""Where alerts go when there is no channel."""

FAILURES_AT_ONCE = 2
"""After this many failures the same `Alerts` does not try a channel again: each try may take seconds."""

SEND_TIMEOUT_SECONDS = 15.0
"""Of one message on one channel. Dagster gives a sensor's tick 60 seconds."""

_LONGEST_PROBLEM = 300
_DIGITS_OF_NAME = 8


@dataclass(frozen=True)
class Channel:
    """One channel.

    Attributes:
        name: For people and for `ledger_outbox`: the service, its host where that is no secret, and a
            fingerprint that tells channels apart. The same for the same URL, at any place in the list.
        apprise: Sends; None when Apprise cannot use the URL.
    """

    name: str
    url: SecretStr
    apprise: "Apprise | None"

    def deliver(self, title: str, body: str) -> str | None:
        """Send a message; return None when the channel took it, else what is wrong, without secrets."""
        if self.apprise is None:
            return "Apprise cannot use this URL; see https://appriseit.com for how the service's is written"
        with _quiet():
            result = self.apprise.notify(title=title, body=body, body_format="text", notify_type="warning")
            logged = [entry.message for entry in result.logs() if entry.level in {"WARNING", "ERROR"}]
        if result:
            return None
        reason = " ".join(" ".join(dict.fromkeys(logged)).split()) or "it took no message in time"
        return redact(reason, url_secrets(self.url.get_secret_value()))[:_LONGEST_PROBLEM]


def open_channels(urls: Sequence[SecretStr]) -> list[Channel]:
    """Open the channels of Apprise URLs; a URL that Apprise cannot use becomes a channel that fails."""
    import apprise  # noqa: PLC0415 - 0.3 s, and only where something is sent

    channels, names = [], Counter[str]()
    with _quiet(), warnings.catch_warnings():
        # Loading its services, Apprise imports modules of the standard library that are to go.
        warnings.simplefilter("ignore", DeprecationWarning)
        asset = apprise.AppriseAsset(
            app_id="spell-billing", app_desc="Spell Platform billing", service_timeout=SEND_TIMEOUT_SECONDS
        )
        for position, url in enumerate(urls, start=1):
            plugin = apprise.Apprise.instantiate(url.get_secret_value(), asset=asset)
            sender = None
            if plugin is None:
                name = f"ALERT_URLS number {position} ({url.get_secret_value().partition('://')[0]}://)"
            else:
                sender = apprise.Apprise(asset=asset)
                sender.add(plugin)
                name = _name(plugin, sender.urls(privacy=True)[0])
            names[name] += 1
            channels.append(Channel(name if names[name] == 1 else f"{name}.{names[name]}", url, sender))
    return channels


def _name(plugin: "NotifyBase", masked: str) -> str:
    """Name a channel. Apprise's own redacted URL shows headers and paths, which may hold a token."""
    # The fingerprint is of the redacted URL: it tells nothing of a password, and outlives a new one.
    fingerprint = hashlib.sha256(masked.encode()).hexdigest()[:_DIGITS_OF_NAME]
    # Some services have a token where others have their host.
    host = f" {plugin.host}" if "host" in plugin.template_tokens else ""
    return f"{plugin.service_name}{host} #{fingerprint}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what Apprise and its HTTP client log: at some levels that is whole URLs."""
    loggers = [logging.getLogger(name) for name in ("apprise", "urllib3")]
    before = [(logger.propagate, logger.handlers) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.handlers = False, [logging.NullHandler()]
    try:
        yield
    finally:
        for logger, (propagate, handlers) in zip(loggers, before, strict=True):
            logger.propagate, logger.handlers = propagate, handlers


@dataclass
class Alerts:
    """Delivers alerts, for one tick or one run.

    Attributes:
        urls: Apprise's URL of each channel; with none, alerts are written to `log`.
        outbox: What waits and what went out.
        sent: The keys of the alerts that went out by this object on some channel.
    """

    urls: Sequence[SecretStr]
    outbox: Outbox
    log: logging.Logger
    sent: set[str] = field(default_factory=set)
    _problems: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

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
            self.outbox.put([alert.on(name) for name in self._channels])
        for stored in self.outbox.due([ALERTS], (), kind) if kind else ():
            self.outbox.put([replace(stored, channel=name) for name in self._channels])
            self.outbox.record(stored, None)
        failed = self._deliver(self._channels, keys, kind) if keys or kind else []
        if failed:
            title = failed[0][0].payload["title"]
            failed += self._report({message.channel for message, _ in failed})
            problems = {message.channel: problem for message, problem in failed}
            raise AlertError(
                f"The alert {title!r} did not go out on "
                + "; ".join(f"{name}: {problem}" for name, problem in problems.items())
                + ".",
                remedy="Check ALERT_URLS with `spell-billing alert-test`. It is retried automatically.",
            )
        return len(keys)

    @cached_property
    def _channels(self) -> Mapping[str, Callable[[str, str], str | None]]:
        """Return what delivers a title and a body, by channel, and gives what is wrong."""
        if not self.urls:
            return {LOG_CHANNEL: partial(self.log.warning, "%s\n%s")}
        return {channel.name: channel.deliver for channel in open_channels(self.urls)}

    def _deliver(
        self, names: Collection[str], keys: Collection[str], kind: str | None = None
    ) -> list[tuple[Message, str]]:
        """Send what is due on channels; return what failed, with what is wrong."""
        failed = []
        for message in self.outbox.due(names, keys, kind):
            name = message.channel
            if len(self._problems[name]) < FAILURES_AT_ONCE:
                problem = self._channels[name](message.payload["title"], message.payload["body"])
                self.outbox.record(message, problem)
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
            last = self.outbox.last_sent(name)
            outage = Alert(
                key=f"alert_channel:{name}:{last.isoformat() if last else 'never'}",
                kind="alert_channel",
                title=f"Alerts do not reach {name}",
                body=f"{self._problems[name][-1]}.\nThey are retried automatically, and go out on the "
                "other channels in the meantime.\nNext: correct ALERT_URLS, then spell-billing alert-test",
            )
            self.outbox.put([outage.on(other) for other in others])
            keys.add(outage.key)
        return self._deliver(others, keys)
