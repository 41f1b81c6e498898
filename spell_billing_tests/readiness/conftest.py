"""A small platform beside a Stripe double."""

import pytest

from spell_billing_tests.proof.platform_fixtures import double, light_platform, platform, shared_double

__all__ = ["double", "light_platform", "platform", "shared_double"]


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "USAGE_DATABASE_URL", "STRIPE_API_KEY", "STRIPE_API_BASE", "ALERT_URLS"):
        monkeypatch.delenv(name, raising=False)
