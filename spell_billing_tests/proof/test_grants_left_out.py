"""Grants that a bill should have used: reconciliation finds them without the code that offers grants."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event

import click
import pytest
import sqlalchemy as sa

from spell_billing.cli import grants as commands
from spell_billing.core import drafting
from spell_billing.core.grants import Grant, paid_by_grants
from spell_billing.core.lines import Line
from spell_billing.core.month import Month
from spell_billing.ledger.money_tables import grants
from spell_billing.ledger.moves import record_move
from spell_billing_tests.proof.granting import NOW, ONE, SUPPORT, TWO, grant
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform


def differing(platform: SmallPlatform, month: Month) -> list[tuple[str, str, str]]:
    found = platform.reconcile(month).findings
    return [(each.user_id, each.expected, each.found) for each in found if each.kind == "grant_differs"]


def pay_by(monkeypatch: pytest.MonkeyPatch, *ids: str) -> None:
    """Let drafting know these grants only."""

    def pay(grants: Sequence[Grant], month: Month, due_cents: int, currency: str) -> list[Line]:
        return paid_by_grants([each for each in grants if each.grant_id in ids], month, due_cents, currency)

    monkeypatch.setattr(drafting, "paid_by_grants", pay)


@pytest.mark.both_databases
def test_a_grant_that_no_bill_used_is_found(platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.accounts(ONE)
    grant(platform, "welcome", 500)
    platform.calls(MARCH, (ONE, 800))
    pay_by(monkeypatch)
    platform.bill(MARCH)
    assert differing(platform, MARCH) == [(ONE, "grant welcome used up first", "$5.00 of it left")]


@pytest.mark.both_databases
def test_a_grant_that_was_used_before_its_turn_is_found(
    platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.accounts(ONE)
    grant(platform, "bought", 500, paid=True)
    grant(platform, "later", 500, expires=Month(2026, 1))
    grant(platform, "gift", 500)
    platform.calls(MARCH, (ONE, 300))
    pay_by(monkeypatch, "bought")
    platform.bill(MARCH)
    assert differing(platform, MARCH) == [(ONE, "grant gift used up first", "$5.00 of it left")]


def test_what_is_left_for_a_reason_is_no_finding(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    grant(light_platform, "short", 500, expires=APRIL)
    grant(light_platform, "more", 500)
    grant(light_platform, "foreign", 500, currency="eur")
    grant(light_platform, "of-two", 500, user=TWO)
    light_platform.calls(MARCH, (ONE, 300))
    light_platform.calls(APRIL, (ONE, 300), (TWO, 100))
    for month in (MARCH, APRIL):
        light_platform.bill(month)
    grant(light_platform, "new", 500, expires=Month(2999, 1), now=datetime.now(UTC))
    for month in (MARCH, APRIL):
        light_platform.must_agree(month)


def test_a_grant_that_a_bill_gave_back_is_no_finding_of_bills_made_meanwhile(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ONE)
    grant(light_platform, "welcome", 500)
    for month in (MARCH, APRIL):
        light_platform.calls(month, (ONE, 800))
        light_platform.bill(month)
    light_platform.void(MARCH, ONE, for_good=True)
    assert differing(light_platform, APRIL) == []


def test_a_grant_that_a_month_drafted_anew_gave_back_is_no_finding_of_a_month_billed_meanwhile(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(ONE, TWO)
    grant(light_platform, "welcome", 500)
    light_platform.calls(MARCH, (ONE, 800), (TWO, 100))
    light_platform.calls(APRIL, (ONE, 800))
    light_platform.draft(MARCH)
    light_platform.bill(APRIL)
    light_platform.source.execute(f"DELETE FROM usage_counters WHERE user_id = '{ONE}' AND cost_cents = 800")
    light_platform.calls(APRIL, (ONE, 800))
    light_platform.draft(MARCH)
    assert light_platform.generations(MARCH, ONE) == []
    assert light_platform.bill_of(APRIL, ONE).total_cents == 800
    assert differing(light_platform, APRIL) == []


def test_of_a_user_whose_usage_moved_nothing_is_reported(
    light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (ONE, 500), (TWO, 500))
    grant(light_platform, "welcome", 900)
    pay_by(monkeypatch)
    light_platform.bill(MARCH)
    with light_platform.ledger() as ledger, ledger.writing() as connection:
        record_move(connection, TWO, ONE, reason="merged", actor=SUPPORT, has_usage=lambda _: True, now=NOW)
    assert differing(light_platform, MARCH) == []


@pytest.mark.parametrize("command", ["grant", "revoke"])
def test_a_grant_dates_from_when_it_was_made_not_from_when_its_command_began_to_wait(
    light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    light_platform.accounts(ONE)
    grant(light_platform, "before", 500)
    monkeypatch.setenv("DATABASE_URL", light_platform.url)
    waits = Event()
    monkeypatch.setattr(click, "echo", lambda *_, **__: waits.set())
    what = {
        "grant": "--id welcome --user user-0001 --cents 500 --expires 2999-01-01 --reason gift",
        "revoke": "--id before --reason duplicate",
    }[command]
    run = getattr(commands, command).main
    with ThreadPoolExecutor() as threads, light_platform.ledger() as ledger:
        # As a month that is drafted: bills of that time must not count as made after the grant.
        with ledger.exclusive():
            made = threads.submit(run, what.split(), standalone_mode=False)
            assert waits.wait(60)
            drafted_at = datetime.now(UTC)
        made.result(60)
        with ledger.reading() as connection:
            entries = connection.execute(sa.select(grants.c.at).order_by(grants.c.at)).scalars().all()
    assert len(entries) == 2
    assert entries[-1] > drafted_at
