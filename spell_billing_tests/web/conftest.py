"""A server for each file of tests, on SQLite; tests that mind the database open one of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.proof.small_platform import KEY, SmallPlatform
from spell_billing_tests.web.house import House, house

_SETTINGS = (
    *("DATABASE_URL", "USAGE_DATABASE_URL", "DAGSTER_HOME", "STRIPE_API_KEY", "STRIPE_API_BASE"),
    *("ADMIN_SECRET", "STRIPE_WEBHOOK_SECRET", "SPELL_BILLING_PUBLIC_URL", "FORWARDED_ALLOW_IPS"),
    *("SPELL_BILLING_FIRST_MONTH", "ALERT_URLS", "DAGSTER_PUBLIC_URL"),
)


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let nothing of the caller's environment into a test."""
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPELL_BILLING_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One server for a whole file: for tests that only look, or that clean up."""
    home = tmp_path_factory.mktemp("house")
    database = home / "billing.db"
    database.touch()
    with house(f"sqlite:///{database}", home) as opened:
        yield opened


@pytest.fixture(scope="session")
def shared_double() -> Iterator[StripeDouble]:
    with StripeDouble(collection="manual").running() as double:
        yield double


@pytest.fixture
def platform(
    make_source_tables: Callable[..., Any], shared_double: StripeDouble, database_url: str, tmp_path: Path
) -> SmallPlatform:
    """Give an empty platform on each database, beside an empty Stripe account."""
    shared_double.reset()
    return SmallPlatform(database_url, make_source_tables(database_url), shared_double, tmp_path / "usage")


@pytest.fixture
def platform_house(platform: SmallPlatform, tmp_path: Path) -> Iterator[House]:
    """Give a server over the platform, on each database."""
    base = platform.double.base_url
    with house(platform.url, tmp_path / "house", STRIPE_API_KEY=KEY, STRIPE_API_BASE=base) as opened:
        yield opened
