"""The settings of alerts, and of events for the platform."""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from pydantic import SecretStr

from spell_billing.core.errors import SettingsError
from spell_billing.settings.addresses import check_address
from spell_billing.settings.environment import EnvironmentSettings

_SHORTEST_SECRET = 16
_MOST_OVERDUE_DAYS = 365
_MOST_PERCENT = 1_000
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
        text = self._text("DAGSTER_PUBLIC_URL")
        if text is None:
            return None
        example = "https://dagster.example.com"
        check_address("DAGSTER_PUBLIC_URL", text, example=example, sends=None)
        return text.rstrip("/")

    @cached_property
    def event_urls(self) -> tuple[SecretStr, ...]:
        """`EVENT_URLS`: where the platform takes events of bills, as `https://platform.example.com/billing`.

        Several, separated by commas, all get every event. Plain `http` only for this machine. See
        [events.md](events.md).

        Default: none: events are not sent; `GET /v1/changes` has them all the same.
        """
        texts = dict.fromkeys(split_urls(self.environment.get("EVENT_URLS", "")))
        for text in texts:
            example = "https://platform.example.com/billing"
            check_address("One of EVENT_URLS", text, example=example, sends="events", may_have_query=True)
        return tuple(SecretStr(text) for text in texts)

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

        If it is paid by transfer, after its due date. The platform is told (`user.overdue`). 1 to 365.

        Default: 14.
        """
        days = self._number("OVERDUE_DAYS", 14, of="days", least=1, most=_MOST_OVERDUE_DAYS)
        return timedelta(days=days)

    @cached_property
    def spend_alert_percents(self) -> tuple[int, ...]:
        """`SPEND_ALERT_PERCENTS`: thresholds of a user's spend limit, in percent, that users are told about.

        As `50,80,100`: 1 to 1000, in rising order. See [pricing.md](pricing.md#spend-limits).

        Default: `50,80,100`.
        """
        usual = "50,80,100"
        return self._rising(
            "SPEND_ALERT_PERCENTS", usual, of="percentages", most=_MOST_PERCENT, example=usual
        )


def split_urls(text: str) -> list[str]:
    """Split channel URLs at commas and spaces; a comma within a URL, as between two recipients, stays."""
    return [url for url in _BETWEEN_URLS.split(text.strip(" \t\r\n,")) if url]
