"""The job after a run of it that made nothing at Stripe: neither the month nor the account is bound by it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from spell_billing.core.errors import StripeAccountError
from spell_billing.core.month import Month
from spell_billing.ledger.rows import Actor
from spell_billing.ledger.stripe_account import StripeAccount, read_account, replace_unused
from spell_billing.orchestration.resources import StripeResource
from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.dagster_layer.conftest import Platform, why

MONTH = "2025-03"
VERIFY = {"ops": {"stripe_invoices": {"config": {"verify": True}}}}
LIVE, WRONG = "sk_live_right", "sk_live_wrong"


def customers_later(platform: Platform, *users: str) -> None:
    platform.source.accounts([{"user_id": user, "stripe_customer_id": f"cus_{user}"} for user in users])


@pytest.mark.both_databases
def test_what_comes_before_the_first_invoice_is_on_it_although_a_run_tried_before(
    platform: Platform, metadata_of: Any
) -> None:
    customers_later(platform, "ada", "bob", "new")
    platform.calls(MONTH, ("ada", 500), ("bob", 600))
    first = platform.bill(MONTH)
    assert metadata_of(first, "stripe_invoices")["failed"] == 2
    assert {bill.reason for bill in platform.bills(MONTH).values()} == {"unknown_customer"}
    platform.calls(MONTH, ("ada", 30), ("new", 70))
    for user in ("ada", "bob", "new"):
        platform.double.add_customer(f"cus_{user}")

    platform.bill(MONTH)

    assert sorted((each.customer, each.total_cents) for each in platform.invoices()) == [
        ("cus_ada", 530),
        ("cus_bob", 600),
        ("cus_new", 70),
    ]
    lines = [line for bill in platform.bills(MONTH).values() for line in bill.parsed_lines]
    assert {line.kind for line in lines} == {"usage"}
    assert platform.double.violations == []


def test_a_limited_run_whose_bills_all_failed_leaves_the_month_to_be_frozen_again(
    platform: Platform, metadata_of: Any
) -> None:
    customers_later(platform, "ada", "bob", "new")
    platform.calls(MONTH, ("ada", 500), ("bob", 600))
    config = {"ops": {"stripe_invoices": {"config": {"first": 1}}}}
    platform.run(MONTH, config=config)
    assert [bill.state for bill in platform.bills(MONTH).values()] == ["failed", "planned"]
    platform.calls(MONTH, ("new", 70))
    for user in ("ada", "bob", "new"):
        platform.double.add_customer(f"cus_{user}")

    assert metadata_of(platform.run(MONTH, config=config), "raw_usage")["calls"] == 3
    platform.calls(MONTH, ("new", 5))
    platform.bill(MONTH)

    assert sorted(each.total_cents for each in platform.invoices()) == [70, 500, 600]


@pytest.fixture
def wrong() -> Iterator[StripeDouble]:
    """Give a live account that has none of the customers."""
    with StripeDouble(account_id="acct_1Wrong", api_keys=frozenset({WRONG})).running() as double:
        yield double


@pytest.fixture
def right() -> Iterator[StripeDouble]:
    with StripeDouble(account_id="acct_1Right", api_keys=frozenset({LIVE})).running() as double:
        yield double


@dataclass
class KeyedPlatform(Platform):
    """The platform with another key and account."""

    key: str = LIVE

    def resources(self) -> dict[str, object]:
        stripe = StripeResource(api_key=self.key, api_base=self.double.base_url, tries=2)
        return {**super().resources(), "stripe": stripe}


def with_key(platform: Platform, key: str, double: StripeDouble) -> Platform:
    return KeyedPlatform(platform.url, platform.source, double, platform.store, platform.instance, key)


def recorded(platform: Platform) -> StripeAccount | None:
    with platform.ledger() as ledger:
        return ledger.read(read_account)


@pytest.mark.both_databases
def test_a_live_account_in_which_nothing_was_made_gives_way_to_the_next_run_s(
    platform: Platform, wrong: StripeDouble, right: StripeDouble
) -> None:
    customers_later(platform, "ada")
    platform.calls(MONTH, ("ada", 500))
    with_key(platform, WRONG, wrong).bill(MONTH)
    assert recorded(platform) == StripeAccount("live", "acct_1Wrong")
    right.add_customer("cus_ada")
    wrong.add_customer("cus_ada")

    with_key(platform, LIVE, right).bill(MONTH)

    assert [each.total_cents for each in right.invoices()] == [500]
    assert wrong.invoices() == []
    assert recorded(platform) == StripeAccount("live", "acct_1Right")
    with platform.ledger() as ledger:
        told = [
            each for each in ledger.audit_trail(Month.parse(MONTH)) if each["action"] == "account_replaced"
        ]
    assert [each["detail"] for each in told] == [
        "nothing was made in acct_1Wrong in live mode; from now on acct_1Right in live mode"
    ]
    # From here on it is bound.
    refused = with_key(platform, WRONG, wrong).run(MONTH, config=VERIFY)
    assert "This ledger bills acct_1Right in live mode" in why(refused)


def test_a_rehearsal_of_which_nothing_was_made_gives_way_to_the_live_key(
    platform: Platform, right: StripeDouble
) -> None:
    customers_later(platform, "ada")
    platform.calls(MONTH, ("ada", 500))
    platform.bill(MONTH)
    right.add_customer("cus_ada")
    with_key(platform, LIVE, right).bill(MONTH)
    assert recorded(platform) == StripeAccount("live", "acct_1Right")
    assert [each.total_cents for each in right.invoices()] == [500]


@pytest.mark.parametrize("fault", [None, "lost_before", "refused_draft"])
def test_an_account_in_which_something_was_or_may_have_been_made_does_not_give_way(
    platform: Platform, right: StripeDouble, fault: str | None
) -> None:
    if fault == "refused_draft":
        # The lines are refused, and the draft is deleted again.
        platform.source.plans([{"plan_id": "pro", "name": "P" * 5001, "included_cents": 100}])
        platform.accounts("ada", plan_id="pro")
    else:
        platform.accounts("ada")
    platform.calls(MONTH, ("ada", 500))
    if fault == "lost_before":
        platform.double.arm(fault, operation="invoices.create", probability=1.0)
    platform.bill(MONTH)
    platform.double.disarm()

    result = with_key(platform, LIVE, right).run(MONTH, config=VERIFY)

    assert not result.success
    assert "This ledger bills acct_1StripeDouble in test mode" in why(result)
    assert "forget-rehearsal" in why(result)
    assert right.requests == []
    assert recorded(platform) == StripeAccount("test", "acct_1StripeDouble")


def test_a_month_is_not_pinned_for_an_account_that_another_run_has_replaced(
    platform: Platform, wrong: StripeDouble
) -> None:
    platform.accounts("ada")
    wrong.add_customer("cus_ada")
    platform.calls(MONTH, ("ada", 500))

    def replace_account(_: object) -> None:
        with platform.ledger() as ledger:
            account = StripeAccount("live", "acct_1Right")
            assert ledger.write(replace_unused, account, Actor("another run"), datetime.now(UTC)) == account

    wrong.arm("none", operation="invoices.list", before_effect=replace_account)

    result = with_key(platform, WRONG, wrong).run(MONTH)

    assert "This ledger bills acct_1Right in live mode" in why(result)
    assert wrong.writes == []


def test_only_a_billing_run_takes_the_place_of_an_account(
    platform: Platform, wrong: StripeDouble, right: StripeDouble
) -> None:
    customers_later(platform, "ada")
    platform.calls(MONTH, ("ada", 500))
    with_key(platform, WRONG, wrong).bill(MONTH)
    stripe = StripeResource(api_key=LIVE, api_base=right.base_url)
    with platform.ledger() as ledger, pytest.raises(StripeAccountError) as error:
        stripe.work(ledger, lambda gateway: gateway.send("GET /v1/invoices"))
    assert "Or run `spell-billing bill` with this key: nothing was made in the other account." in (
        error.value.remedy
    )
    assert recorded(platform) == StripeAccount("live", "acct_1Wrong")
