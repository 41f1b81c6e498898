"""Fixtures of a small platform beside a Stripe double whose finalized invoices stay open."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.proof.small_platform import SmallPlatform


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
