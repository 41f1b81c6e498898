"""The account behind the key: recorded with the first request, compared in each run."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from spell_billing.core.errors import StripeAccountError, StripeSilentError
from spell_billing.invoicing.gateway import Gateway, Patience, require_account, require_mode
from spell_billing.invoicing.pace import LOOPBACK, Pace
from spell_billing.ledger.column_types import metadata
from spell_billing.ledger.grants import add_grant, read_ledger_grants
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.stripe_account import StripeAccount, forget_rehearsal, read_account
from spell_billing.stripe_api.client import StripeApi, mode_of_key
from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.proof.small_platform import APRIL, MARCH, NOW, SmallPlatform

TEST_KEY, RESTRICTED, LIVE = "sk_test_account", "rk_test_account", "sk_live_account"
USER = "user-0001"
QUICK = Patience(tries=2, first_pause_seconds=0.001, longest_pause_seconds=0.01)


def ask(ledger: Ledger, double: StripeDouble, key: str, times: int = 1) -> None:
    """Ask for an invoice list, as each door does it: the mode at once, the account with the first request."""

    async def run() -> None:
        mode = mode_of_key(SecretStr(key))
        require_mode(ledger, mode)
        guard = partial(require_account, ledger, mode)
        async with StripeApi(SecretStr(key), double.base_url, timeout_seconds=10) as api:
            gateway = Gateway(api, Pace(LOOPBACK), QUICK, guard=guard)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(times):
                    tasks.create_task(gateway.send("GET /v1/invoices"))

    try:
        asyncio.run(run())
    except ExceptionGroup as errors:
        # Not `except*`: early Pythons 3.11 wrap what is raised in one again.
        raise errors.exceptions[0] from None


def recorded(ledger: Ledger) -> StripeAccount | None:
    with ledger.reading() as connection:
        return read_account(connection)


@pytest.fixture
def ledger(platform: SmallPlatform) -> Iterator[Ledger]:
    with platform.ledger() as opened:
        yield opened


def test_one_request_tells_the_account_however_many_are_sent(platform: SmallPlatform, ledger: Ledger) -> None:
    ask(ledger, platform.double, TEST_KEY, times=20)
    asked = [record.operation for record in platform.double.requests]
    assert (asked[0], asked.count("account.retrieve"), len(asked)) == ("account.retrieve", 1, 21)
    assert recorded(ledger) == StripeAccount("test", "acct_1StripeDouble")


def test_another_account_of_the_same_mode_is_refused_before_anything_else_is_asked(
    platform: SmallPlatform, ledger: Ledger
) -> None:
    ask(ledger, platform.double, TEST_KEY)
    with StripeDouble(account_id="acct_1Other").running() as other:
        with pytest.raises(StripeAccountError, match=r"bills acct_1StripeDouble .*acct_1Other in") as error:
            ask(ledger, other, TEST_KEY)
        assert [record.path for record in other.requests] == ["/v1/account"]
    assert "forget-rehearsal" in error.value.remedy


def test_a_key_of_the_other_mode_is_refused_without_a_request(
    platform: SmallPlatform, ledger: Ledger
) -> None:
    ask(ledger, platform.double, TEST_KEY)
    before = len(platform.double.requests)
    with pytest.raises(StripeAccountError, match="in live mode"):
        ask(ledger, platform.double, LIVE)
    assert len(platform.double.requests) == before


@pytest.mark.both_databases
def test_a_restricted_key_that_may_not_read_its_account_tells_the_mode(
    platform: SmallPlatform, ledger: Ledger
) -> None:
    ask(ledger, platform.double, RESTRICTED)
    assert recorded(ledger) == StripeAccount("test", None)
    with pytest.raises(StripeAccountError, match="in live mode"):
        ask(ledger, platform.double, LIVE)
    ask(ledger, platform.double, TEST_KEY)
    assert recorded(ledger) == StripeAccount("test", "acct_1StripeDouble")
    ask(ledger, platform.double, RESTRICTED)
    assert recorded(ledger) == StripeAccount("test", "acct_1StripeDouble")


def test_a_restricted_key_that_may_not_read_its_account_must_have_the_ledger_s_invoices(
    platform: SmallPlatform, ledger: Ledger
) -> None:
    platform.accounts("ada")
    platform.calls(MARCH, ("ada", 500))
    platform.bill(MARCH)
    ask(ledger, platform.double, TEST_KEY)
    ask(ledger, platform.double, RESTRICTED)
    with StripeDouble(account_id="acct_1Other").running() as other:
        with pytest.raises(StripeAccountError, match="does not exist in the Stripe account"):
            ask(ledger, other, RESTRICTED)
        assert other.writes == []


def test_a_refused_key_is_not_recorded(platform: SmallPlatform, ledger: Ledger) -> None:
    with pytest.raises(StripeAccountError, match="Invalid API Key"):
        ask(ledger, platform.double, "sk_wrong")
    assert recorded(ledger) is None


def test_a_ledger_of_an_earlier_version_takes_only_the_account_that_has_its_invoices(
    platform: SmallPlatform, ledger: Ledger
) -> None:
    platform.accounts("ada")
    platform.calls(MARCH, ("ada", 500))
    platform.bill(MARCH)
    assert recorded(ledger) is None
    with (
        StripeDouble(api_keys=frozenset({LIVE})).running() as live,
        pytest.raises(StripeAccountError, match="does not exist in the Stripe account"),
    ):
        ask(ledger, live, LIVE)
    assert recorded(ledger) is None
    ask(ledger, platform.double, TEST_KEY)
    assert recorded(ledger) == StripeAccount("test", "acct_1StripeDouble")


@pytest.mark.both_databases
def test_a_key_that_may_not_create_invoices_leaves_the_month_to_be_frozen_anew(
    platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.accounts("ada", "bob", "cem")
    platform.calls(MARCH, ("ada", 500), ("bob", 600), ("cem", 700))
    platform.double.restrict(RESTRICTED, {"invoice_read"})
    monkeypatch.setattr("spell_billing_tests.proof.small_platform.KEY", RESTRICTED)
    with pytest.raises(StripeAccountError, match="lacks a permission for POST /v1/invoices: Invoices: Write"):
        platform.bill(MARCH)
    assert platform.status(MARCH) == "unbilled"
    platform.calls(MARCH, ("ada", 50))
    platform.double.restrict(RESTRICTED, {"invoice_write", "charge_read", "dispute_read", "credit_note_read"})
    platform.bill(MARCH)
    assert platform.lines(MARCH, "ada") == [("usage", 550)]
    platform.must_agree(MARCH)


def test_a_pin_is_not_taken_back_where_another_month_was_drafted_with_it(platform: SmallPlatform) -> None:
    platform.calls(MARCH, ("ada", 500))
    platform.calls(APRIL, ("ada", 100))
    platform.draft(MARCH)
    with platform.ledger() as ledger, ledger.session(MARCH, Actor("tester")) as session:
        assert session.start_billing()
        assert session.take_back_start()
        assert session.start_billing()
        platform.draft(APRIL)
        assert not session.take_back_start()
        assert not session.start_billing()


def test_a_stripe_that_does_not_answer_pins_nothing(platform: SmallPlatform) -> None:
    platform.accounts("ada")
    platform.calls(MARCH, ("ada", 500))
    platform.double.arm("error_500_unstored", operation="invoices.list", probability=1.0)
    with pytest.raises(StripeSilentError):
        platform.bill(MARCH)
    platform.double.disarm()
    assert platform.status(MARCH) == "unbilled"
    platform.calls(MARCH, ("ada", 50))
    platform.bill(MARCH)
    assert platform.lines(MARCH, "ada") == [("usage", 550)]


def test_a_create_without_an_answer_keeps_the_month_pinned(platform: SmallPlatform) -> None:
    platform.accounts("ada")
    platform.calls(MARCH, ("ada", 500))
    platform.double.arm("lost_before", operation="invoices.create", probability=1.0)
    platform.bill(MARCH)
    platform.double.disarm()
    assert platform.status(MARCH) == "partial"
    platform.calls(MARCH, ("ada", 50))
    platform.bill(MARCH)
    assert platform.lines(MARCH, "ada") == [("usage", 500)]


def test_a_forgotten_rehearsal_leaves_nothing_but_the_audit_trail_and_unused_grants(
    platform: SmallPlatform, ledger: Ledger
) -> None:
    platform.accounts(USER)
    with ledger.writing() as connection:
        add_grant(
            connection,
            "welcome",
            USER,
            700,
            "usd",
            expires_on=NOW.date(),
            is_paid=False,
            reason="offer",
            actor=Actor("tester"),
            now=MARCH.start,
        )
    platform.calls(MARCH, (USER, 1000))
    platform.bill(MARCH)
    platform.double.advance()
    platform.credit(MARCH, USER, 200)
    ask(ledger, platform.double, TEST_KEY)
    with ledger.writing() as connection:
        forget_rehearsal(connection, Actor("tester"), NOW)
        left = [
            table.name
            for table in metadata.sorted_tables
            if connection.scalar(sa.select(sa.func.count()).select_from(table))
        ]
        assert [(each.grant_id, each.left_cents) for each in read_ledger_grants(connection)] == [
            ("welcome", 700)
        ]
    assert sorted(left) == ["ledger_audit", "ledger_credits"]
