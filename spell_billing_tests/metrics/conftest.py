"""A platform with two users whose month is billed by the assets, against a Stripe double."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.runs import RunRecord
from spell_billing.orchestration.build import build_defs
from spell_billing.orchestration.resources import AlertResource, LedgerResource, StripeResource, UsageResource
from spell_billing.settings.databases import parse_database_url
from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.metrics.contents import fill

MARCH = Month(2025, 3)
_SETTINGS = (
    *("DATABASE_URL", "USAGE_DATABASE_URL", "DAGSTER_HOME", "STRIPE_API_KEY", "STRIPE_API_BASE"),
    *("STRIPE_REQUESTS_PER_SECOND", "STRIPE_REQUESTS_PER_SECOND_PER_ENDPOINT", "ALERT_URLS", "MAIL_URL"),
    *("SPELL_BILLING_HOME", "SPELL_BILLING_USAGE_STORE", "SPELL_BILLING_FIRST_MONTH"),
)


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPELL_BILLING_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def shared_double() -> Iterator[StripeDouble]:
    with StripeDouble().running() as double:
        yield double


@dataclass
class Plant:
    """What a month is billed with, each part exchangeable."""

    url: str
    source: Any
    double: StripeDouble
    store: Path

    def bill(self, month: Month = MARCH, **stripe: Any) -> dg.ExecuteInProcessResult:
        """Run the whole job; `stripe` exchanges arguments of the resource."""
        usual = {
            "api_key": "sk_test_metrics",
            "api_base": self.double.base_url,
            "first_pause_seconds": 0.001,
            "longest_pause_seconds": 0.01,
            "tries": 2,
        }
        resources: dict[str, object] = {
            "ledger": LedgerResource(database_url=self.url),
            "usage": UsageResource(database_url=self.url, store_path=str(self.store)),
            "stripe": StripeResource(**{**usual, **stripe}),
            "alerts": AlertResource(urls=[]),
        }
        job = build_defs(resource_overrides=resources).resolve_job_def("monthly_billing")
        return job.execute_in_process(partition_key=month.partition_key, raise_on_error=False)

    def ledger(self) -> Ledger:
        return Ledger(parse_database_url(self.url, setting="DATABASE_URL"))

    def runs(self, month: Month = MARCH) -> list[RunRecord]:
        with self.ledger() as ledger:
            return ledger.runs(month)


@pytest.fixture
def make_plant(
    make_source_tables: Callable[..., Any], shared_double: StripeDouble, tmp_path: Path
) -> Callable[[str], Plant]:
    """Give a function that opens a platform: two users with usage in March, one without an account."""

    def make(url: str) -> Plant:
        shared_double.reset()
        source = make_source_tables(url)
        noon = MARCH.start.replace(day=15, hour=12)
        source.calls([("user-0001", 1000, noon), ("user-0001", 234, noon), ("user-0002", 500, noon)])
        source.accounts([{"user_id": "user-0001", "stripe_customer_id": "cus_1"}])
        shared_double.add_customer("cus_1")
        return Plant(url, source, shared_double, tmp_path / "usage")

    return make


@pytest.fixture
def plant(make_plant: Callable[[str], Plant], database_url: str) -> Plant:
    return make_plant(database_url)


@pytest.fixture
def light_plant(make_plant: Callable[[str], Plant], sqlite_url: str) -> Plant:
    """Give a platform on SQLite, where the database makes no difference."""
    return make_plant(sqlite_url)


@pytest.fixture
def url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SPELL_BILLING_FIRST_MONTH", "2020-01")
    return database_url


@pytest.fixture
def open_ledger(url: str) -> Callable[[], Ledger]:
    return lambda: Ledger(parse_database_url(url, setting="DATABASE_URL"))


@pytest.fixture
def full(open_ledger: Callable[[], Ledger]) -> Callable[[], Ledger]:
    """Give a ledger with something of everything."""
    with open_ledger() as ledger:
        fill(ledger)
    return open_ledger
