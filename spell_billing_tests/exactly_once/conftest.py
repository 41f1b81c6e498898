"""The small month on each database, beside a Stripe double, and the count of crash points survived."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.exactly_once.children import Children
from spell_billing_tests.exactly_once.world import World

_FIRST_OF_NOVEMBER = datetime(2026, 11, 1, 6, tzinfo=UTC)
_SURVIVED = "crash_points_survived"


@pytest.fixture(scope="session")
def starts_migrated() -> bool:
    return True


@pytest.fixture(scope="session")
def children() -> Iterator[Children]:
    with Children.serving() as serving:
        yield serving


@pytest.fixture(scope="session")
def shared_double() -> Iterator[StripeDouble]:
    with StripeDouble(now=lambda: _FIRST_OF_NOVEMBER).running() as double:
        yield double


@pytest.fixture
def survived(request: pytest.FixtureRequest) -> Iterator[Callable[[], object]]:
    """Count a crash point after which the month was billed exactly once."""
    points: list[None] = []
    yield lambda: points.append(None)
    request.node.user_properties.append((_SURVIVED, len(points)))


@pytest.fixture
def sqlite_world(
    shared_double: StripeDouble, sqlite_url: str, children: Children, survived: Callable[[], object]
) -> World:
    return World(shared_double, sqlite_url, children, survived)


@pytest.fixture
def postgres_world(
    shared_double: StripeDouble, postgres_url: str, children: Children, survived: Callable[[], object]
) -> Iterator[World]:
    with closing(World(shared_double, postgres_url, children, survived)) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest) -> World:
    """Run the test on both databases."""
    made: World = request.getfixturevalue(f"{'sqlite' if request.param == 'sqlite' else 'postgres'}_world")
    return made


@pytest.fixture
def twins(
    sqlite_world: World, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[[str], tuple[World, World]]:
    """Give a function that makes two ledgers with the same drafts and the same Stripe account."""

    def make(kind: str) -> tuple[World, World]:
        if kind == "sqlite":
            path = tmp_path / "twin.db"
            path.touch()
            return sqlite_world, replace(sqlite_world, database_url=f"sqlite:///{path}")
        return sqlite_world, request.getfixturevalue("postgres_world")

    return make
