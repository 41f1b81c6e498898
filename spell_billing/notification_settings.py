"""Settings of what is told to people. A missing or malformed one is an error that names it and the remedy."""

import re
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from pydantic import SecretStr

from spell_billing.core.errors import SettingsError
from spell_billing.environment import EnvironmentSettings

_BETWEEN_URLS = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


@dataclass(frozen=True, repr=False)
class NotificationSettings(EnvironmentSettings):
    """The settings of alerts."""

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


def split_urls(text: str) -> list[str]:
    """Split channel URLs at commas and spaces; a comma within a URL, as between two recipients, stays."""
    return [url for url in _BETWEEN_URLS.split(text.strip(" \t\r\n,")) if url]
