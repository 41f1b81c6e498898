"""Settings of what is told to people. A missing or malformed one is an error that names it and the remedy."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from pydantic import SecretStr

from spell_billing.core.errors import SettingsError

_BETWEEN_URLS = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


@dataclass(frozen=True)
class NotificationSettings:
    """What the environment says. Every property checks its own setting, as those of `Settings` do.

    Raises:
        SettingsError: from a property, naming the setting and the remedy, never its secret value.
    """

    environment: Mapping[str, str]

    @classmethod
    def from_environment(cls) -> "NotificationSettings":
        """Take the process's environment as it is now."""
        return cls(dict(os.environ))

    def __repr__(self) -> str:
        return "NotificationSettings(from the environment)"

    @cached_property
    def alert_urls(self) -> tuple[SecretStr, ...]:
        """`ALERT_URLS`: Apprise's URLs of the channels, between commas or spaces. Default: none."""
        return tuple(SecretStr(url) for url in split_urls(self.environment.get("ALERT_URLS", "")))

    @cached_property
    def dagster_public_url(self) -> str | None:
        """`DAGSTER_PUBLIC_URL`: where people reach Dagster's pages. Default: none, and no links."""
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
