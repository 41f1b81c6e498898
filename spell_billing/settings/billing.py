"""The settings of billing: databases, Stripe, files, when."""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from platformdirs import user_data_path
from pydantic import SecretStr

from spell_billing.core.errors import MonthError, SettingsError
from spell_billing.core.month import Month
from spell_billing.settings.addresses import (
    DEFAULT_STRIPE_API_BASE,
    check_address,
    check_api_base,
    check_api_key,
)
from spell_billing.settings.bills import BillSettings
from spell_billing.settings.databases import DatabaseUrl, parse_database_url
from spell_billing.settings.lakes import UsageUrl, parse_usage_url
from spell_billing.settings.usage_place import SETTING, BucketPlace, bucket_place

_FOUR_WEEKS_HOURS = 28 * 24
_WEEK_MINUTES = 7 * 24 * 60
_NO_ITEMS = frozenset({"id", "user_id", "cost_cents", "created_at"})
_COLUMN = re.compile(r"[^\W\d]\w{0,62}")


@dataclass(frozen=True, repr=False)
class Settings(BillSettings):
    """The settings of billing: databases, Stripe, files, when; and what bills say."""

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
    def usage_database(self) -> UsageUrl:
        """`USAGE_DATABASE_URL`: the platform's database, a replica of it, or an engine over a lake.

        Only read: `usage_counters`, `billing_accounts` and, where there are any, `billing_plans` and
        `rate_cards`. Also `duckdb:///folder/of/parquet`, `spark://host:7077`, `clickhouse://`, `bigquery://`,
        `snowflake://` and `trino://`: see [usage beyond one database](lake.md).

        Default: `DATABASE_URL`.
        """
        text = self._text("USAGE_DATABASE_URL")
        return parse_usage_url(text, setting="USAGE_DATABASE_URL") if text else self.database

    @cached_property
    def usage_store(self) -> Path | BucketPlace:
        """`SPELL_BILLING_USAGE_STORE`: frozen usage: the evidence behind every invoice.

        A folder on a local disk; or, where several machines bill, `s3://bucket/prefix`, `gs://` or `az://`:
        see [deploy](deploy.md#frozen-usage-in-a-bucket). Back it up with the ledger.

        Default: `$SPELL_BILLING_HOME/usage`.
        """
        in_bucket = bucket_place(self._text(SETTING) or "", self.home)
        return in_bucket or self._path(SETTING) or self.home / "usage"

    @cached_property
    def exports(self) -> Path:
        """`SPELL_BILLING_EXPORTS`: the folder of the files for finance: see [finance](finance.md).

        Default: `$SPELL_BILLING_HOME/exports`.
        """
        return self._path("SPELL_BILLING_EXPORTS") or self.home / "exports"

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
        return timedelta(minutes=self._number("BILLING_GRACE_MINUTES", 0, of="minutes", most=_WEEK_MINUTES))

    @cached_property
    def source_wait(self) -> timedelta:
        """`SOURCE_WAIT_MINUTES`: how long a run waits for a standby to have the whole month.

        After that it fails with a transient error that says how far the standby is, and is retried. 0 to
        360.

        Default: 30.
        """
        return timedelta(minutes=self._number("SOURCE_WAIT_MINUTES", 30, of="minutes", most=360))

    @cached_property
    def usage_dedupe_column(self) -> str | None:
        """`USAGE_DEDUPE_COLUMN`: a column of `usage_counters` that never repeats a value, as `request_id`.

        Within a month and the one billed before it; rows where it is null or empty are not compared.

        Default: none.
        """
        return self._column("USAGE_DEDUPE_COLUMN", example="request_id")

    @cached_property
    def line_items_by(self) -> str | None:
        """`LINE_ITEMS_BY`: a column of `usage_counters` by which usage is split into lines, as `endpoint`.

        What counts is the setting when a month is frozen. See [pricing](pricing.md#a-line-for-each-endpoint).

        Default: none: one line of usage.
        """
        text = self._column("LINE_ITEMS_BY", example="endpoint")
        if text is not None and text.lower() in _NO_ITEMS:
            raise SettingsError(
                f"LINE_ITEMS_BY={text} would make a line for each call or user.",
                remedy="Write a column of usage_counters that says what was called, as endpoint.",
            )
        return text

    @cached_property
    def billing_deadline(self) -> timedelta:
        """`BILLING_DEADLINE_HOURS`: alert if a month is still unbilled this long after its scheduled run.

        1 to 672.

        Default: 6.
        """
        hours = self._number("BILLING_DEADLINE_HOURS", 6, of="hours", least=1, most=_FOUR_WEEKS_HOURS)
        return timedelta(hours=hours)

    @cached_property
    def stripe_api_key(self) -> SecretStr:
        """`STRIPE_API_KEY`: Stripe's secret (`sk_...`) or restricted (`rk_...`) key.

        Needed by `bill`, `reconcile`, `readiness` and `void`. What a restricted key must be allowed is in
        [permissions](permissions.md#stripe-a-restricted-key).

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
        """Whether `STRIPE_API_KEY` is set, whether valid or not."""
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

    def _column(self, name: str, *, example: str) -> str | None:
        text = self._text(name)
        if text is not None and not _COLUMN.fullmatch(text):
            raise SettingsError(
                f"{name}={text!r} is not the name of a column.",
                remedy=f"Write the name of a column of usage_counters, as {example}, or leave it unset.",
            )
        return text

    @cached_property
    def public_url(self) -> str | None:
        """`SPELL_BILLING_PUBLIC_URL`: the public address of `serve`, as `https://billing.example.com`.

        With https, cookies are sent over https only. Needed behind a proxy that changes the `Host` header.

        Default: none: links lead to where the request went.
        """
        text = self._text("SPELL_BILLING_PUBLIC_URL")
        if text is None:
            return None
        example = "https://billing.example.com"
        parts = check_address("SPELL_BILLING_PUBLIC_URL", text, example=example, sends="secrets")
        if parts.path.strip("/"):
            raise SettingsError(
                "SPELL_BILLING_PUBLIC_URL has a path, and the server lies at the root of its host.",
                remedy=f"Write it as {example}.",
            )
        return f"{parts.scheme}://{parts.netloc}"

    @cached_property
    def dagster_home(self) -> Path:
        """`DAGSTER_HOME`: the Dagster instance.

        In production the folder of the top-level `dagster.yaml`.

        Default: `$SPELL_BILLING_HOME/dagster`, made on first use.
        """
        return self._path("DAGSTER_HOME") or self.home / "dagster"
