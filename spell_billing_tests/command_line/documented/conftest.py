"""A shell on a shop of its own for each test."""

from collections.abc import Callable, Iterator

import pytest

from spell_billing_tests.command_line.conftest import Forks, Shop
from spell_billing_tests.command_line.documented.shell import Shell, forks_by_port


@pytest.fixture(scope="session")
def port(forks: Forks) -> Iterator[int]:
    with forks_by_port(forks) as port:
        yield port


@pytest.fixture
def shell(make_shop: Callable[..., Shop], port: int) -> Shell:
    """Give a shell on SQLite, whose ledger has its tables."""
    return Shell(make_shop("sqlite", ready=True), port)
