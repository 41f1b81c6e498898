"""What the tests of late usage share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from spell_billing.core.month import Month
from spell_billing.settings.lakes import parse_usage_url
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore


@pytest.fixture(autouse=True)
def quick_freezes() -> None:
    """Start a process of its own for each freeze, and a DuckDB: these tests are about freezes."""


@pytest.fixture
def freezer(tmp_path: Path) -> Callable[..., FrozenUsage]:
    """Give a function that freezes a month from the database of a URL."""
    store = UsageStore(tmp_path / "usage")

    def freeze(url: str, month: Month, late_for: list[FrozenUsage] | None = None) -> FrozenUsage:
        source = open_usage_source(parse_usage_url(url, setting="USAGE_DATABASE_URL"))
        return store.freeze(source, month, late_for=late_for or [])

    return freeze
