"""A small platform on each database, beside a Stripe double whose finalized invoices stay open."""

from pathlib import Path

import pytest

from spell_billing_tests.proof.platform_fixtures import double, light_platform, platform, shared_double
from spell_billing_tests.proof.small_platform import SmallPlatform, bill_march

__all__ = ["double", "light_platform", "platform", "shared_double"]

_SETTINGS = (
    *("DATABASE_URL", "USAGE_DATABASE_URL", "DAGSTER_HOME", "STRIPE_API_KEY", "STRIPE_API_BASE"),
    *("STRIPE_REQUESTS_PER_SECOND", "STRIPE_REQUESTS_PER_SECOND_PER_ENDPOINT"),
    *("SPELL_BILLING_HOME", "SPELL_BILLING_USAGE_STORE", "SPELL_BILLING_FIRST_MONTH"),
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


@pytest.fixture
def billed(platform: SmallPlatform) -> SmallPlatform:
    """Give a platform on each database whose March is billed."""
    return bill_march(platform)


@pytest.fixture
def light_billed(light_platform: SmallPlatform) -> SmallPlatform:
    """Give a platform on SQLite whose March is billed."""
    return bill_march(light_platform)
