"""One server for all tests of a file, with the daemon that starts its runs."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spell_billing_tests.triggering.served import Served


@pytest.fixture(scope="module")
def served(
    make_source_tables: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Give a running server whose platform has no usage yet; tests take months of their own."""
    with Served.new(tmp_path_factory.mktemp("served"), make_source_tables) as running:
        yield running
