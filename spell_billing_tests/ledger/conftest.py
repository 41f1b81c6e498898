"""A ledger on each database, drafts to fill it with, and other processes that want it too."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from spell_billing.core.drafting import Account, Draft, draft_invoice
from spell_billing.core.month import Month
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.settings.databases import DatabaseUrl, parse_database_url

OtherProcess = Callable[..., "subprocess.Popen[str]"]
"""`start(job, url, *months)`: starts it and returns once it is ready."""


@pytest.fixture
def url(database_url: str) -> DatabaseUrl:
    return parse_database_url(database_url, setting="DATABASE_URL")


@pytest.fixture
def ledger(url: DatabaseUrl) -> Iterator[Ledger]:
    with Ledger(url) as opened:
        yield opened


@pytest.fixture
def make_draft() -> Callable[..., Draft]:
    """Give `make_draft(user_id="user-0001", usage="1234", month=Month(2026, 10), **of_draft_invoice)`."""

    def make(
        user_id: str = "user-0001",
        usage: str = "1234",
        *,
        month: Month = Month(2026, 10),  # noqa: B008 - frozen
        account: Account | None = Account("cus_1"),  # noqa: B008 - frozen
    ) -> Draft:
        return draft_invoice(month, user_id, calls=3, usage_cents=Decimal(usage), account=account)

    return make


@pytest.fixture
def drafted(ledger: Ledger, make_draft: Callable[..., Draft]) -> Callable[[Iterable[str]], None]:
    """Give a function that drafts October 2026 for the users."""

    def draft(users: Iterable[str]) -> None:
        with ledger.session(Month(2026, 10), Actor("drafter", "run-0"), wait_seconds=0) as session:
            session.replace_drafts(
                [make_draft(user) for user in users],
                usage_version="v1",
                calls=0,
                usage_cents=Decimal(0),
            )

    return draft


@pytest.fixture
def other_process() -> Iterator[OtherProcess]:
    started: list[subprocess.Popen[str]] = []

    def start(job: str, url: str, *months: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(Path(__file__).with_name("other_process.py")), job, url, *months]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() in {"held", "ready"}
        return process

    yield start
    for process in started:
        process.kill()
        with process:
            process.wait()
