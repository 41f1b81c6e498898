"""Settings of what is told to people. A missing or malformed one is an error that names it and the remedy."""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from urllib.parse import urlsplit

from pydantic import SecretStr

from spell_billing.core.errors import SettingsError
from spell_billing.settings.environment import EnvironmentSettings

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""This machine: what is sent there does not cross a network."""

_SHORTEST_SECRET = 16
_MOST_OVERDUE_DAYS = 365
_BETWEEN_URLS = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


@dataclass(frozen=True, repr=False)
class NotificationSettings(EnvironmentSettings):
    """The settings of alerts, and of events for the platform."""

    @cached_property
    def alert_urls(self) -> tuple[SecretStr, ...]:
        """`ALERT_URLS`: the channels that operators are alerted on, as Apprise URLs.

        Separated by commas or spaces; see [alerts.md](alerts.md). They hold secrets.

        Default: none: alerts go to the log.
        """
        return tuple(SecretStr(url) for url in split_urls(self.environment.get("ALERT_URLS", "")))

    @cached_property
    def dagster_public_url(self) -> str | None:
        """`DAGSTER_PUBLIC_URL`: the public address of Dagster's pages, as `https://dagster.example.com`.

        Default: none: alerts have no link.
        """
        text = self.environment.get("DAGSTER_PUBLIC_URL", "").strip()
        if not text:
            return None
        try:
            parts = urlsplit(text)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username or parts.password or parts.query or parts.fragment:
            raise SettingsError(
                "DAGSTER_PUBLIC_URL is not an address of web pages.",
                remedy="Write it as https://dagster.example.com, with no login in it, or leave it unset.",
            )
        return text.rstrip("/")

    @cached_property
    def event_urls(self) -> tuple[SecretStr, ...]:
        """`EVENT_URLS`: where the platform takes events of bills, as `https://platform.example.com/billing`.

        Several, separated by commas, all get every event. Plain `http` only for this machine. See
        [events.md](events.md).

        Default: none: events are not sent; `GET /v1/changes` has them all the same.
        """
        texts = dict.fromkeys(split_urls(self.environment.get("EVENT_URLS", "")))
        return tuple(SecretStr(_checked_event_url(text)) for text in texts)

    @cached_property
    def event_secret(self) -> SecretStr:
        """`EVENT_SECRET`: signs events for the platform, which checks them with it.

        Needed with `EVENT_URLS`. At least 16 characters, as from `openssl rand -hex 32`.

        Default: none.
        """
        text = self._text("EVENT_SECRET")
        if text is None or len(text) < _SHORTEST_SECRET:
            raise SettingsError(
                f"EVENT_SECRET is {'not set' if text is None else 'too short'}: events for EVENT_URLS are "
                f"signed with it, and it needs at least {_SHORTEST_SECRET} characters.",
                remedy="Set it to a random text, as from `openssl rand -hex 32`, here and at the platform.",
            )
        return SecretStr(text)

    @cached_property
    def overdue_after(self) -> timedelta:
        """`OVERDUE_DAYS`: how many days after its finalization an unpaid invoice is overdue.

        The platform is told (`user.overdue`). 1 to 365.

        Default: 14.
        """
        text = self._text("OVERDUE_DAYS") or "14"
        if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= _MOST_OVERDUE_DAYS:
            raise SettingsError(
                f"OVERDUE_DAYS={text!r} is not a number of days.",
                remedy=f"Write a whole number from 1 to {_MOST_OVERDUE_DAYS}, or leave it unset for 14.",
            )
        return timedelta(days=int(text))


def _checked_event_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable or parts.username or parts.password or parts.fragment:
        raise SettingsError(
            "EVENT_URLS has an entry that is no address, or that has a login in it.",
            remedy="Write each as https://platform.example.com/billing. The signature takes a login's place.",
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise SettingsError(
            "EVENT_URLS has an entry that would send events unencrypted.",
            remedy="Use https; plain http is for 127.0.0.1 and localhost only.",
        )
    return text


def split_urls(text: str) -> list[str]:
    """Split channel URLs at commas and spaces; a comma within a URL, as between two recipients, stays."""
    return [url for url in _BETWEEN_URLS.split(text.strip(" \t\r\n,")) if url]
