"""A small platform on each database, beside a Stripe double whose finalized invoices stay open."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.proof.small_platform import SmallPlatform, bill_march

_SETTINGS = (
    *("DATABASE_URL", "USAGE_DATABASE_URL", "DAGSTER_HOME", "STRIPE_API_KEY", "STRIPE_API_BASE"),
    *("STRIPE_REQUESTS_PER_SECOND", "STRIPE_REQUESTS_PER_SECOND_PER_ENDPOINT"),
    *("SPELL_BILLING_HOME", "SPELL_BILLING_USAGE_STORE", "SPELL_BILLING_FIRST_MONTH"),
)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let nothing of the caller's environment into a test."""
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPELL_BILLING_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def shared_double() -> Iterator[StripeDouble]:
    with StripeDouble(collection="manual").running() as double:
        yield double


@pytest.fixture
def double(shared_double: StripeDouble) -> StripeDouble:
    """Give a running double with an empty account."""
    shared_double.reset()
    return shared_double


@pytest.fixture
def platform(
    make_source_tables: Callable[..., Any], double: StripeDouble, database_url: str, tmp_path: Path
) -> SmallPlatform:
    """Give an empty platform on each database."""
    return SmallPlatform(database_url, make_source_tables(database_url), double, tmp_path / "usage")


@pytest.fixture
def light_platform(
    make_source_tables: Callable[..., Any], double: StripeDouble, sqlite_url: str, tmp_path: Path
) -> SmallPlatform:
    """Give an empty platform on SQLite, where the database makes no difference."""
    return SmallPlatform(sqlite_url, make_source_tables(sqlite_url), double, tmp_path / "usage")


@pytest.fixture
def billed(platform: SmallPlatform) -> SmallPlatform:
    """Give a platform on each database whose March is billed."""
    return bill_march(platform)


@pytest.fixture
def light_billed(light_platform: SmallPlatform) -> SmallPlatform:
    """Give a platform on SQLite whose March is billed."""
    return bill_march(light_platform)
