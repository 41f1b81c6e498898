"""The outside world as Dagster resources, each of them exchangeable: ledger, usage, Stripe.

A resource without configuration takes its settings from the environment when it is used, so that a missing
setting is an error of the run that needs it, and no secret ever stands in a run's configuration.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field, SecretStr

from spell_billing.alerts.channels import Alerts
from spell_billing.core.errors import SettingsError
from spell_billing.core.keys import MONTH
from spell_billing.core.month import Month
from spell_billing.invoicing.gateway import Gateway, Patience, require_account, require_mode
from spell_billing.invoicing.pace import LIVE, LOOPBACK, SANDBOX, Limits, Pace, shared
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.outbox import in_memory
from spell_billing.ledger.rows import Actor
from spell_billing.settings.addresses import DEFAULT_STRIPE_API_BASE, check_api_base, check_api_key
from spell_billing.settings.billing import Settings
from spell_billing.settings.databases import DatabaseUrl, parse_database_url
from spell_billing.settings.lakes import UsageUrl, parse_usage_url
from spell_billing.settings.notifications import NotificationSettings
from spell_billing.settings.usage_place import SETTING
from spell_billing.stripe_api.client import TIMEOUT_SECONDS, StripeApi, mode_of_key
from spell_billing.usage.contract import SourceRules, UsageSource
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore, open_usage_store

_Result = TypeVar("_Result")


class _OfTheEnvironment(dg.ConfigurableResource[_Result]):
    """A resource that nobody configures at launch: who may launch a run chooses no ledger, account or key."""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Refuse a run whose configuration sets something of a resource.

        Raises:
            dagster.Failure: naming what is set.
        """
        run = context.run
        set_by_hand = sorted(_set_by_hand(run.run_config)) if run is not None else []
        if set_by_hand:
            error = SettingsError(
                f"The run's configuration sets {', '.join(set_by_hand)}.",
                remedy="Launch it without `resources`: their settings come from the environment.",
            )
            raise dg.Failure(str(error), metadata={"remedy": error.remedy}, allow_retries=False) from error


class LedgerResource(_OfTheEnvironment[Ledger]):
    """The ledger's database."""

    database_url: str | None = Field(default=None, description="Default: DATABASE_URL.")

    def open(self) -> Ledger:
        """Connect, and bring the tables up to date; close it after use (a context manager).

        Raises:
            SpellBillingError: naming the setting that is wrong, or the database that does not answer.
        """
        return Ledger(self._url())

    def open_read_only(self) -> Ledger:
        """Connect to a ledger whose tables are up to date, only to read; close it after use.

        Raises:
            SpellBillingError: as `open`, and where the tables are not up to date.
        """
        return Ledger(self._url(), read_only=True)

    def _url(self) -> DatabaseUrl:
        if self.database_url is None:
            return Settings.from_environment().database
        return parse_database_url(self.database_url, setting="LedgerResource.database_url")


class UsageResource(_OfTheEnvironment[None]):
    """The platform's usage tables, and the folder of frozen usage."""

    database_url: str | None = Field(
        default=None, description="Default: USAGE_DATABASE_URL, or else DATABASE_URL."
    )
    store_path: str | None = Field(default=None, description="Default: SPELL_BILLING_USAGE_STORE.")

    def source(self) -> UsageSource:
        """Return the source that serves the database."""
        settings = Settings.from_environment()
        rules = SourceRules(settings.source_wait, settings.usage_dedupe_column, settings.line_items_by)
        return open_usage_source(self._url(), rules)

    def store(self) -> UsageStore:
        """Return the store of frozen usage."""
        settings = Settings.from_environment()
        if self.store_path:
            settings = Settings({**settings.environment, SETTING: self.store_path})
        return open_usage_store(settings.usage_store)

    def _url(self) -> UsageUrl:
        if self.database_url is None:
            return Settings.from_environment().usage_database
        return parse_usage_url(self.database_url, setting="UsageResource.database_url")


class StripeResource(_OfTheEnvironment[None]):
    """One Stripe account, reached with the official SDK, at a pace it allows."""

    api_key: str | None = Field(
        default=None,
        description="Default: STRIPE_API_KEY. Leave it out in production: configuration is not secret.",
    )
    api_base: str | None = Field(default=None, description="Default: STRIPE_API_BASE.")
    requests_per_second: float | None = Field(
        default=None, description="Of the account. Default: 100 for live keys, 25 for test keys."
    )
    requests_per_second_per_endpoint: float | None = Field(default=None, description="Default: 25.")
    timeout_seconds: float = TIMEOUT_SECONDS
    tries: int = Patience().tries
    first_pause_seconds: float = Patience().first_pause_seconds
    longest_pause_seconds: float = Patience().longest_pause_seconds
    down_seconds: float = Patience().down_seconds

    def check(self) -> None:
        """Raise SettingsError when the key or the address cannot be used; nothing is sent."""
        self._address()
        self._key()

    @property
    def has_key(self) -> bool:
        """Whether a key is configured or set, valid or not."""
        return self.api_key is not None or Settings.from_environment().has_stripe_api_key

    @asynccontextmanager
    async def connect(self, ledger: Ledger, biller: Actor | None = None) -> AsyncIterator[Gateway]:
        """Open the account's gateway for one run on a ledger, which bills one account only.

        A `biller` runs a month, with the account that is to be billed if nothing was made in another.
        All runs on the ledger share the account's rate.

        Raises:
            SettingsError: when no key is set, or the address would send it in the clear.
            StripeAccountError: when the key is of another mode than the one the ledger bills.
        """
        key = self._key()
        await asyncio.to_thread(require_mode, ledger, mode_of_key(key), biller)
        async with StripeApi(key, self._address(), timeout_seconds=self.timeout_seconds) as api:
            patience = Patience(
                tries=self.tries,
                first_pause_seconds=self.first_pause_seconds,
                longest_pause_seconds=self.longest_pause_seconds,
                down_seconds=self.down_seconds,
            )
            async with shared(Pace(self.limits()), lambda: len(ledger.months_held())) as pace:
                guard = partial(require_account, ledger, mode_of_key(key), biller=biller)
                yield Gateway(api, pace, patience, guard=guard)

    def work(
        self, ledger: Ledger, ask: Callable[[Gateway], Awaitable[_Result]], biller: Actor | None = None
    ) -> _Result:
        """Do something with the account's gateway, outside of an event loop, and return the result."""

        async def run() -> _Result:
            async with self.connect(ledger, biller) as gateway:
                return await ask(gateway)

        return asyncio.run(run())

    def invoices_link(self, month: Month) -> dict[str, dg.UrlMetadataValue]:
        """Return the link to a month's invoices in Stripe's dashboard; none for a stand-in for Stripe."""
        if self._address() != DEFAULT_STRIPE_API_BASE:
            return {}
        mode = "test/" if mode_of_key(self._key()) == "test" else ""
        address = f"https://dashboard.stripe.com/{mode}search?query=metadata%3A{MONTH}%3D{month}"
        return {"stripe": dg.MetadataValue.url(address)}

    def limits(self) -> Limits:
        """Return the pace: as configured, or what Stripe allows the kind of key."""
        settings = Settings.from_environment()
        if urlsplit(self._address()).scheme == "http":
            usual = LOOPBACK
        else:
            usual = LIVE if mode_of_key(self._key()) == "live" else SANDBOX
        return Limits(
            self.requests_per_second or settings.stripe_requests_per_second or usual.account_per_second,
            self.requests_per_second_per_endpoint
            or settings.stripe_requests_per_second_per_endpoint
            or usual.endpoint_per_second,
        )

    def _key(self) -> SecretStr:
        if self.api_key is None:
            return Settings.from_environment().stripe_api_key
        return check_api_key(self.api_key)

    def _address(self) -> str:
        if self.api_base is None:
            return Settings.from_environment().stripe_api_base
        return check_api_base(self.api_base)


class AlertResource(_OfTheEnvironment[None]):
    """The channels of alerts to operators."""

    urls: list[str] | None = Field(
        default=None,
        description="Apprise's URLs. Default: ALERT_URLS. Leave them out in production: they hold secrets.",
    )

    def open(self, ledger: Ledger | None, log: logging.Logger) -> Alerts:
        """Return the channels for one tick or run.

        Args:
            ledger: Holds the outbox. None where it does not answer: then this process remembers what it sent.
            log: Where alerts are written when there is no channel.
        """
        outbox = in_memory() if ledger is None else ledger.outbox
        if self.urls is None:
            return Alerts(NotificationSettings.from_environment().alert_urls, outbox, log)
        return Alerts([SecretStr(url) for url in self.urls], outbox, log)


_BY_NAME: Mapping[str, type[_OfTheEnvironment[Any]]] = {
    "ledger": LedgerResource,
    "usage": UsageResource,
    "stripe": StripeResource,
    "alerts": AlertResource,
}


def _set_by_hand(run_config: Mapping[str, Any]) -> Iterator[str]:
    """Name what a run's configuration sets of resources; Dagster's launchpad itself fills in defaults."""
    for name, given in (run_config.get("resources") or {}).items():
        fields = _BY_NAME[name].model_fields if name in _BY_NAME else {}
        for field, value in ((given or {}).get("config") or {}).items():
            if field not in fields or value != fields[field].default:
                yield f"{name}.{field}"
