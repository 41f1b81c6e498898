"""A world for the sensors on each database, and a clock that can be moved."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import time_machine

from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.alerting.receivers import WebReceiver
from spell_billing_tests.sensors.world import World


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let nothing of the caller's environment into a test."""
    for name in (
        *("ALERT_URLS", "DAGSTER_PUBLIC_URL", "DATABASE_URL", "STRIPE_API_KEY", "SPELL_BILLING_FIRST_MONTH"),
        *("BILLING_CRON", "BILLING_DEADLINE_HOURS", "DAGSTER_HOME", "SPEND_ALERT_PERCENTS"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPELL_BILLING_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def shared_double() -> Iterator[StripeDouble]:
    with StripeDouble().running() as double:
        yield double


@pytest.fixture
def double(shared_double: StripeDouble) -> StripeDouble:
    """Give a running double with an empty account."""
    shared_double.reset()
    shared_double.disarm()
    return shared_double


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """Set this process's clock: `clock.move_to(...)`. It starts at 2025-04-01 00:00:10 UTC, and ticks."""
    with time_machine.travel(datetime(2025, 4, 1, 0, 0, 10, tzinfo=UTC)) as traveller:
        yield traveller


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Give a Dagster instance in memory, in which a run takes half the time that it takes on disk."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def instance_on_disk() -> Iterator[dg.DagsterInstance]:
    """Give an instance that others can open too, as the schedule's context does."""
    with dg.instance_for_test(set_dagster_home=False) as made:
        yield made


@pytest.fixture
def make_world(
    make_source_tables: Callable[..., Any],
    double: StripeDouble,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    clock: time_machine.Traveller,  # noqa: ARG001 - the whole world lives by it
) -> Iterator[Callable[[str], World]]:
    """Give `make_world(url)`: on a database, with usage of nobody."""
    with WebReceiver().running() as web:

        def make(url: str) -> World:
            world = World(url, make_source_tables(url), double, tmp_path / "usage", instance, web)
            with world.ledger():
                return world

        yield make


@pytest.fixture
def world(make_world: Callable[[str], World], database_url: str) -> World:
    """Give a world on each database."""
    return make_world(database_url)


@pytest.fixture
def small_world(make_world: Callable[[str], World], sqlite_url: str) -> World:
    """Give a world on SQLite, where the database makes no difference."""
    return make_world(sqlite_url)
