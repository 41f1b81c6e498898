"""The world of payments on each database, on 1 April 2025."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import time_machine
from pydantic import SecretStr

from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.alerting.receivers import WebReceiver
from spell_billing_tests.payments.world import World
from spell_billing_tests.proof.platform_fixtures import double, shared_double
from spell_billing_tests.proof.small_platform import SmallPlatform

__all__ = ["double", "shared_double"]

_NOW = datetime(2025, 4, 1, 6, tzinfo=UTC)


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let nothing of the caller's environment into a test."""
    for name in (
        *("ALERT_URLS", "DAGSTER_PUBLIC_URL", "DATABASE_URL", "STRIPE_API_KEY", "STRIPE_API_BASE"),
        *("SPELL_BILLING_FIRST_MONTH", "DUNNING_DAYS", "DAGSTER_HOME"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPELL_BILLING_HOME", str(tmp_path / "home"))


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(_NOW, tick=True) as traveller:
        yield traveller


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with WebReceiver().running() as receiver:
        yield receiver


MakeWorld = Callable[[str], World]


@pytest.fixture
def make_world(
    make_source_tables: Callable[..., Any],
    double: StripeDouble,
    clock: time_machine.Traveller,
    web: WebReceiver,
    tmp_path: Path,
) -> MakeWorld:
    def make(url: str) -> World:
        platform = SmallPlatform(url, make_source_tables(url), double, tmp_path / "usage")
        return World(platform, clock, web, [SecretStr(web.url())])

    return make


@pytest.fixture
def world(make_world: MakeWorld, database_url: str) -> World:
    """Give an empty world on each database, whose alerts go to a web service."""
    return make_world(database_url)


@pytest.fixture
def small_world(make_world: MakeWorld, sqlite_url: str) -> World:
    """Give an empty world on SQLite, where the database makes no difference."""
    return make_world(sqlite_url)
