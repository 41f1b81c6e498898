"""One channel that alerts go out on: an Apprise URL, its name for people, and a message sent or not."""

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from spell_billing.alerts.redact import redact, url_secrets

if TYPE_CHECKING:
    from apprise import Apprise
    from apprise.plugins.base import NotifyBase

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
            said = [entry.message for entry in result.logs() if entry.level in {"WARNING", "ERROR"}]
        if result:
            return None
        reason = " ".join(" ".join(dict.fromkeys(said)).split()) or "it took no message in time"
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
