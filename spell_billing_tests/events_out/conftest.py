"""A ledger whose bills move, and web services of the platform's that are told."""

from collections.abc import Iterator

import pytest

from spell_billing.ledger.ledger import Ledger
from spell_billing.settings.databases import parse_database_url
from spell_billing_tests.events_out.world import Office, Platform


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVENT_URLS", "EVENT_SECRET", "OVERDUE_DAYS", "DATABASE_URL", "ALERT_URLS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def office(database_url: str) -> Iterator[Office]:
    with Ledger(parse_database_url(database_url, setting="DATABASE_URL")) as ledger:
        yield Office(ledger)


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform().running() as running:
        yield running


@pytest.fixture
def other_platform() -> Iterator[Platform]:
    with Platform().running() as running:
        yield running
