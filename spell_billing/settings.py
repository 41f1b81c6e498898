"""Settings: read from the environment only, each with its default, none of them secret in print."""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import SecretStr

from spell_billing.core.errors import MonthError, SettingsError
from spell_billing.core.month import Month
from spell_billing.databases import DatabaseUrl, parse_database_url
from spell_billing.environment import EnvironmentSettings

DEFAULT_STRIPE_API_BASE = "https://api.stripe.com"
_LONGEST_DEADLINE_HOURS = 28 * 24
_LATEST_DUNNING_DAY = 60
_LONGEST_WAIT_MINUTES = 6 * 60
_LONGEST_GRACE_MINUTES = 7 * 24 * 60
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_COLUMN = re.compile(r"[^\W\d]\w{0,62}")


@dataclass(frozen=True, repr=False)
class Settings(EnvironmentSettings):
    """The settings of billing: databases, Stripe, files, when."""

    @cached_property
    def home(self) -> Path:
        """`SPELL_BILLING_HOME`: the folder for files that have no setting of their own.

        Default: the user's data directory (`~/.local/share/spell-billing` on Linux).
        """
        return self._path("SPELL_BILLING_HOME") or user_data_path("spell-billing", appauthor=False)

    @cached_property
    def database(self) -> DatabaseUrl:
        """`DATABASE_URL`: the ledger's database.

        `sqlite:///relative`, `sqlite:////absolute`, `postgresql://`, `postgres://`,
        `postgresql+psycopg://`; a socket directory goes into `?host=`. A direct connection, or a pooler in
        session mode: see [below](#what-connection-database_url-needs).

        Default: `sqlite:///$SPELL_BILLING_HOME/billing.db`.
        """
        text = self._text("DATABASE_URL") or f"sqlite:///{self.home / 'billing.db'}"
        return parse_database_url(text, setting="DATABASE_URL")

    @cached_property
    def usage_database(self) -> DatabaseUrl:
        """`USAGE_DATABASE_URL`: the platform's database, or a replica of it.

        Only read: `usage_counters`, `billing_accounts` and, where there is one, `billing_plans`.

        Default: `DATABASE_URL`.
        """
        text = self._text("USAGE_DATABASE_URL")
        return parse_database_url(text, setting="USAGE_DATABASE_URL") if text else self.database

    @cached_property
    def usage_store(self) -> Path:
        """`SPELL_BILLING_USAGE_STORE`: frozen usage: the evidence behind every invoice.

        On a local disk; back it up with the ledger.

        Default: `$SPELL_BILLING_HOME/usage`.
        """
        return self._path("SPELL_BILLING_USAGE_STORE") or self.home / "usage"

    @cached_property
    def first_month(self) -> Month:
        """`SPELL_BILLING_FIRST_MONTH`: months before it are never billed.

        Default: `2024-01`.
        """
        text = self._text("SPELL_BILLING_FIRST_MONTH") or "2024-01"
        try:
            return Month.parse(text)
        except MonthError as error:
            raise SettingsError(
                f"SPELL_BILLING_FIRST_MONTH={text!r} is not a month.",
                remedy="Write it as YYYY-MM, as 2024-01.",
            ) from error

    @cached_property
    def billing_cron(self) -> str:
        """`BILLING_CRON`: when months are billed: a cron schedule of five fields, in UTC.

        Default: `0 0 1 * *`.
        """
        return self._text("BILLING_CRON") or "0 0 1 * *"

    @cached_property
    def billing_grace(self) -> timedelta:
        """`BILLING_GRACE_MINUTES`: how long to wait after a month's end before billing it.

        For platforms that write usage late; the schedule has an extra tick at the end of this time. 0 to
        10080.

        Default: 0.
        """
        return self._minutes("BILLING_GRACE_MINUTES", default=0, longest=_LONGEST_GRACE_MINUTES)

    @cached_property
    def source_wait(self) -> timedelta:
        """`SOURCE_WAIT_MINUTES`: how long a run waits for a standby to have the whole month.

        After that it fails with a transient error that says how far the standby is, and is retried. 0 to
        360.

        Default: 30.
        """
        return self._minutes("SOURCE_WAIT_MINUTES", default=30, longest=_LONGEST_WAIT_MINUTES)

    @cached_property
    def usage_dedupe_column(self) -> str | None:
        """`USAGE_DEDUPE_COLUMN`: a column of `usage_counters` that never repeats a value, as `request_id`.

        Within a month; rows where it is null or empty are not compared.

        Default: none.
        """
        text = self._text("USAGE_DEDUPE_COLUMN")
        if text is not None and not _COLUMN.fullmatch(text):
            raise SettingsError(
                f"USAGE_DEDUPE_COLUMN={text!r} is not the name of a column.",
                remedy="Write the name of a column of usage_counters, as request_id, or leave it unset.",
            )
        return text

    @cached_property
    def billing_deadline(self) -> timedelta:
        """`BILLING_DEADLINE_HOURS`: alert if a month is still unbilled this long after its scheduled run.

        1 to 672.

        Default: 6.
        """
        text = self._text("BILLING_DEADLINE_HOURS") or "6"
        if not text.isascii() or not text.isdigit() or not 0 < int(text) <= _LONGEST_DEADLINE_HOURS:
            raise SettingsError(
                f"BILLING_DEADLINE_HOURS={text!r} is not a number of hours.",
                remedy=f"Write a whole number from 1 to {_LONGEST_DEADLINE_HOURS}, as 6.",
            )
        return timedelta(hours=int(text))

    @cached_property
    def stripe_api_key(self) -> SecretStr:
        """`STRIPE_API_KEY`: Stripe's secret (`sk_...`) or restricted (`rk_...`) key.

        Needed by `bill`, `reconcile`, `readiness` and `void`.

        Default: none.
        """
        text = self._text("STRIPE_API_KEY")
        if not text:
            raise SettingsError(
                "STRIPE_API_KEY is not set.",
                remedy="Set it to your Stripe secret key (sk_... or rk_...); nothing is billed without one.",
            )
        return check_api_key(text)

    @property
    def has_stripe_api_key(self) -> bool:
        """Whether `STRIPE_API_KEY` is set, be it right or wrong."""
        return self._text("STRIPE_API_KEY") is not None

    @cached_property
    def stripe_api_base(self) -> str:
        """`STRIPE_API_BASE`: Stripe's address.

        Plain `http` only for this machine (127.0.0.1, localhost, ::1).

        Default: `https://api.stripe.com`.
        """
        return check_api_base(self._text("STRIPE_API_BASE") or DEFAULT_STRIPE_API_BASE)

    @cached_property
    def stripe_requests_per_second(self) -> float | None:
        """`STRIPE_REQUESTS_PER_SECOND`: requests per second for the whole account.

        No limit towards this machine.

        Default: 100 for live keys, 25 for test keys.
        """
        return self._rate("STRIPE_REQUESTS_PER_SECOND")

    @cached_property
    def stripe_requests_per_second_per_endpoint(self) -> float | None:
        """`STRIPE_REQUESTS_PER_SECOND_PER_ENDPOINT`: requests per second for each endpoint.

        Default: 25.
        """
        return self._rate("STRIPE_REQUESTS_PER_SECOND_PER_ENDPOINT")

    @cached_property
    def dunning_days(self) -> tuple[int, ...]:
        """`DUNNING_DAYS`: days after finalization on which to ask Stripe to collect an open invoice again.

        As `3,5,7`: 1 to 60, in rising order. Unset: Stripe's own retries serve. See
        [payments](payments.md).

        Default: none.
        """
        text = self._text("DUNNING_DAYS")
        if text is None:
            return ()
        parts = [part.strip() for part in text.split(",")]
        numbers = [int(part) if part.isascii() and part.isdigit() else 0 for part in parts]
        days = all(0 < number <= _LATEST_DUNNING_DAY for number in numbers)
        if not days or numbers != sorted(set(numbers)):
            raise SettingsError(
                f"DUNNING_DAYS={text!r} is not a list of days.",
                remedy=f"Write whole numbers from 1 to {_LATEST_DUNNING_DAY} in rising order, as 3,5,7.",
            )
        return tuple(numbers)

    @cached_property
    def public_url(self) -> str | None:
        """`SPELL_BILLING_PUBLIC_URL`: the public address of `serve`, as `https://billing.example.com`.

        With https, cookies are sent over https only. Needed behind a proxy that changes the `Host` header.

        Default: none: links lead to where the request went.
        """
        text = self._text("SPELL_BILLING_PUBLIC_URL")
        if text is None:
            return None
        try:
            parts = urlsplit(text)
            usable = bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise _no_public_url() from None
        if not usable or parts.username or parts.password or parts.query or parts.fragment:
            raise _no_public_url()
        if parts.path.strip("/"):
            raise SettingsError(
                "SPELL_BILLING_PUBLIC_URL has a path, and the server lies at the root of its host.",
                remedy="Write it as https://billing.example.com.",
            )
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise SettingsError(
                "SPELL_BILLING_PUBLIC_URL would send secrets unencrypted.",
                remedy="Use https; plain http is for 127.0.0.1 and localhost only.",
            )
        return f"{parts.scheme}://{parts.netloc}"

    @cached_property
    def dagster_home(self) -> Path:
        """`DAGSTER_HOME`: the Dagster instance.

        In production the folder of the top-level `dagster.yaml`.

        Default: `$SPELL_BILLING_HOME/dagster`, made on first use.
        """
        return self._path("DAGSTER_HOME") or self.home / "dagster"

    def _minutes(self, name: str, *, default: int, longest: int) -> timedelta:
        text = self._text(name) or str(default)
        if not text.isascii() or not text.isdigit() or len(text) > len(str(longest)) or int(text) > longest:
            raise SettingsError(
                f"{name}={text!r} is not a number of minutes.",
                remedy=f"Write a whole number from 0 to {longest}, as {default or 90}.",
            )
        return timedelta(minutes=int(text))

    def _rate(self, name: str) -> float | None:
        text = self._text(name)
        if text is None:
            return None
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf"):
            raise SettingsError(f"{name}={text!r} is not a rate.", remedy="Write a number above 0, as 25.")
        return rate

    def _path(self, name: str) -> Path | None:
        text = self._text(name)
        if text is None:
            return None
        try:
            return Path(text).expanduser().absolute()
        except RuntimeError:
            raise SettingsError(
                f"{name}={text!r} begins with the home of a user that this machine does not know.",
                remedy="Write an absolute path.",
            ) from None


def check_api_key(text: str) -> SecretStr:
    """Accept a Stripe secret or restricted key.

    Raises:
        SettingsError: for anything else; the text itself is not repeated.
    """
    if not text.startswith(("sk_", "rk_")) or not text.isascii() or not text.isprintable() or " " in text:
        raise SettingsError(
            "STRIPE_API_KEY is not a Stripe secret key.",
            remedy="It starts with sk_live_, sk_test_, rk_live_ or rk_test_; publishable keys cannot bill.",
        )
    return SecretStr(text)


def check_api_base(text: str) -> str:
    """Accept an https address, or plain http to this machine; the scheme comes back in lower case, no slash.

    Raises:
        SettingsError: when the address is malformed or would send the key in the clear.
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError(
            "STRIPE_API_BASE is not an address.",
            remedy="Write it as https://api.stripe.com, or leave it unset.",
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise SettingsError(
            f"STRIPE_API_BASE={parts.scheme}://{host} would send the Stripe key unencrypted.",
            remedy="Use https; plain http is for 127.0.0.1 and localhost only.",
        )
    return parts.geturl().rstrip("/")


def _no_public_url() -> SettingsError:
    return SettingsError(
        "SPELL_BILLING_PUBLIC_URL is not an address of web pages.",
        remedy="Write it as https://billing.example.com, with no login in it, or leave it unset.",
    )
