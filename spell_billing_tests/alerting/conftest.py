"""Receivers of alerts, a ledger on each database, and `Alerts` between them."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from spell_billing.alerts.channels import Alerts
from spell_billing.ledger.ledger import Ledger
from spell_billing.settings.databases import parse_database_url
from spell_billing_tests.alerting.receivers import MailReceiver, WebReceiver


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let nothing of the caller's environment into a test."""
    for name in ("ALERT_URLS", "DAGSTER_PUBLIC_URL", "DATABASE_URL", "STRIPE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPELL_BILLING_HOME", str(tmp_path / "home"))


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with WebReceiver().running() as receiver:
        yield receiver


@pytest.fixture
def other_web() -> Iterator[WebReceiver]:
    with WebReceiver().running() as receiver:
        yield receiver


@pytest.fixture
def mail() -> Iterator[MailReceiver]:
    with MailReceiver().running() as receiver:
        yield receiver


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with Ledger(parse_database_url(database_url, setting="DATABASE_URL")) as opened:
        yield opened


@pytest.fixture
def alerts_on(ledger: Ledger) -> Callable[..., Alerts]:
    """Give `alerts_on(*urls)`: the alerts of one tick, with these channels."""

    def make(*urls: str) -> Alerts:
        return Alerts([SecretStr(url) for url in urls], ledger.outbox, logging.getLogger("tick"))

    return make
