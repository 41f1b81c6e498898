"""Fixtures for what comes in: the repository's root, and a database of the test's own, opened."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from spell_billing.settings.databases import create_engine_for, parse_database_url


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Open a fresh, empty database; the test runs on SQLite and on PostgreSQL."""
    engine = create_engine_for(parse_database_url(database_url, setting="DATABASE_URL"))
    yield engine
    engine.dispose()
