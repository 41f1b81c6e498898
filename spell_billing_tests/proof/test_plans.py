"""Plans with fees, from the platform's tables to the invoice: frozen with the month, charged once, proven."""

import pytest

from spell_billing.core.erasure import Erasure
from spell_billing.core.errors import IntegrityError
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.terms import Policy
from spell_billing.usage.erasing import erase_in_store, names_user
from spell_billing.usage.plan_book import read_book
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform

ONE, TWO, THREE = "user-0001", "user-0002", "user-0003"
IN_ADVANCE = Policy(fees_in_advance=True)


@pytest.fixture
def plans(platform: SmallPlatform) -> SmallPlatform:
    return with_plans(platform)


@pytest.fixture
def light(light_platform: SmallPlatform) -> SmallPlatform:
    return with_plans(light_platform)


def with_plans(platform: SmallPlatform) -> SmallPlatform:
    """Give the platform plans with fees, subscriptions and discounts."""
    moment = "text" if platform.source.is_sqlite else "timestamptz"
    platform.sql(
        "ALTER TABLE billing_plans ADD COLUMN monthly_fee_cents bigint",
        "ALTER TABLE billing_plans ADD COLUMN minimum_cents bigint",
        "ALTER TABLE billing_plans ADD COLUMN usage_discount_percent numeric",
        "ALTER TABLE billing_plans ADD COLUMN currency text",
        f"CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at {moment}, ends_at {moment})",
        "CREATE TABLE billing_discounts (name text, user_id text, plan_id text, percent numeric, "
        f"amount_cents bigint, starts_at {moment}, ends_at {moment})",
    )
    platform.source.plans(
        [
            {"plan_id": "basic", "name": "Basic", "included_cents": 310, "monthly_fee_cents": 3_100},
            {"plan_id": "pro", "name": "Pro", "monthly_fee_cents": 6_200, "usage_discount_percent": 10},
            {"plan_id": "least", "name": "Least", "minimum_cents": 2_000},
        ]
    )
    return platform


def subscribe(platform: SmallPlatform, user: str, plan: str, start: str | None, end: str | None) -> None:
    values = ", ".join("NULL" if each is None else f"'{each}'" for each in (user, plan, start, end))
    platform.sql(f"INSERT INTO plan_subscriptions VALUES ({values})")


@pytest.mark.both_databases
def test_an_account_s_plan_counts_for_nobody_whose_subscriptions_ended_and_one_that_is_none_fails_alone(
    plans: SmallPlatform,
) -> None:
    plans.accounts(ONE, TWO, plan_id="basic")
    plans.accounts(THREE, plan_id="bsaic")
    subscribe(plans, ONE, "pro", None, "2025-02-11")
    plans.calls(MARCH, (ONE, 1_000), (TWO, 1_000), (THREE, 1_000))
    plans.bill(MARCH)

    assert plans.lines(MARCH, ONE) == [("usage", 1_000)]
    assert (plans.bill_of(MARCH, ONE).plan_id, plans.bill_of(MARCH, ONE).included_cents) == (None, 0)
    assert plans.lines(MARCH, TWO) == [("usage", 1_000), ("included", -310), ("fee", 3_100)]
    bill = plans.bill_of(MARCH, THREE)
    assert (bill.state, bill.reason) == (State.FAILED, Reason.UNKNOWN_PLAN)
    assert plans.findings(MARCH) == [(THREE, "not_invoiced")]

    plans.sql(f"UPDATE billing_accounts SET plan_id = 'basic' WHERE user_id = '{THREE}'")
    plans.bill(MARCH)

    assert plans.lines(MARCH, THREE) == [("usage", 1_000), ("included", -310), ("fee", 3_100)]
    plans.must_agree(MARCH)


@pytest.mark.both_databases
def test_an_account_s_plan_that_is_none_fails_without_a_call_too_until_it_is_corrected_and_its_fee_charged(
    plans: SmallPlatform,
) -> None:
    plans.accounts(ONE, plan_id="basic")
    plans.accounts(TWO, plan_id="Basic")
    plans.accounts(THREE)
    plans.calls(MARCH, (ONE, 1_000))
    plans.bill(MARCH)

    bill = plans.bill_of(MARCH, TWO)
    assert (bill.state, bill.reason, bill.total_cents) == (State.FAILED, Reason.UNKNOWN_PLAN, 0)
    assert plans.findings(MARCH) == [(TWO, "not_invoiced")]

    plans.sql(f"UPDATE billing_accounts SET plan_id = 'basic' WHERE user_id = '{TWO}'")
    plans.bill(MARCH)

    assert plans.lines(MARCH, TWO) == [("fee", 3_100)]
    plans.must_agree(MARCH)


def test_where_no_plan_charges_a_fee_an_unknown_one_without_a_call_owes_nothing(plans: SmallPlatform) -> None:
    plans.sql("UPDATE billing_plans SET monthly_fee_cents = NULL, minimum_cents = NULL")
    plans.accounts(ONE, plan_id="basic")
    plans.accounts(TWO, plan_id="Basic")
    plans.calls(MARCH, (ONE, 1_000))
    plans.bill(MARCH)

    assert plans.generations(MARCH, TWO) == []
    plans.must_agree(MARCH)


def test_an_account_s_plan_that_is_none_fails_with_a_discount_of_the_user_s_own_too(
    plans: SmallPlatform,
) -> None:
    plans.accounts(ONE, plan_id="bsaic")
    plans.sql(f"INSERT INTO billing_discounts (user_id, name, percent) VALUES ('{ONE}', 'Partner', '10')")
    plans.calls(MARCH, (ONE, 1_000))
    plans.bill(MARCH)

    bill = plans.bill_of(MARCH, ONE)
    assert (bill.state, bill.reason) == (State.FAILED, Reason.UNKNOWN_PLAN)


@pytest.mark.both_databases
def test_a_change_of_plans_is_billed_to_the_day_and_a_later_change_bills_nothing_of_the_past(
    plans: SmallPlatform,
) -> None:
    plans.accounts(ONE, TWO)
    plans.accounts(THREE, plan_id="least")
    subscribe(plans, ONE, "basic", None, "2025-03-11")
    subscribe(plans, ONE, "pro", "2025-03-11 00:00:00+00:00", None)
    plans.calls(MARCH, (ONE, 1_000), (TWO, 500))
    plans.bill(MARCH)

    assert plans.lines(MARCH, ONE) == [
        ("usage", 1_000),
        ("included", -100),
        ("usage_discount", -61),
        ("fee", 1_000),
        ("fee", 4_200),
    ]
    assert plans.lines(MARCH, THREE) == [("minimum", 2_000)]
    assert plans.lines(MARCH, TWO) == [("usage", 500)]
    assert plans.bill_of(MARCH, ONE).plan_id == "pro"
    plans.must_agree(MARCH)

    plans.sql("UPDATE billing_plans SET monthly_fee_cents = 99, usage_discount_percent = 50")
    plans.calls(MARCH, (ONE, 100))
    plans.calls(APRIL, (TWO, 500))
    plans.void(MARCH, ONE)
    plans.bill(MARCH)

    # Rated by the plans that were frozen: 1,100 less 100, less 677/1000 of a tenth.
    assert sum(cents for _, cents in plans.lines(MARCH, ONE)) == 1_000 - 68 + 5_200
    plans.bill(APRIL)
    assert plans.lines(APRIL, ONE) == [("fee", 99)]
    for month in (MARCH, APRIL):
        plans.must_agree(month)


def test_a_subscription_that_ended_when_it_began_changes_neither_the_plan_nor_what_was_frozen(
    light: SmallPlatform,
) -> None:
    light.accounts(ONE, plan_id="basic")
    light.accounts(TWO)
    for user in (ONE, TWO):
        subscribe(light, user, "pro", "2025-02-10", "2025-02-10")
    subscribe(light, TWO, "pro", "2025-02-11", None)
    light.calls(MARCH, (ONE, 1_000), (TWO, 1_000))
    light.bill(MARCH)

    assert light.lines(MARCH, ONE) == [("usage", 1_000)]
    on_pro = [("usage", 1_000), ("usage_discount", -100), ("fee", 6_200)]
    assert light.lines(MARCH, TWO) == on_pro

    light.sql("UPDATE billing_plans SET monthly_fee_cents = 99")
    light.void(MARCH, TWO)
    light.bill(MARCH)

    assert light.lines(MARCH, TWO) == on_pro
    light.must_agree(MARCH)


def test_late_usage_is_rated_by_the_plan_of_its_month(light: SmallPlatform) -> None:
    light.accounts(ONE, plan_id="least")
    light.calls(MARCH, (ONE, 1_500))
    light.bill(MARCH)
    light.calls(MARCH, (ONE, 800))
    light.bill(APRIL)

    # On time it would have been 2,300; the minimum of 2,000 was charged.
    assert light.lines(MARCH, ONE) == [("usage", 1_500), ("minimum", 500)]
    assert light.lines(APRIL, ONE) == [("minimum", 2_000), ("late_usage", 300)]
    for month in (MARCH, APRIL):
        light.must_agree(month)


def test_a_discount_of_a_user_is_taken_off_fee_and_usage_while_it_is_valid(light: SmallPlatform) -> None:
    light.accounts(ONE, plan_id="basic")
    light.sql(
        "INSERT INTO billing_discounts VALUES ('Launch', 'user-0001', NULL, 50, NULL, NULL, '2025-04-01')",
        "INSERT INTO billing_discounts VALUES ('Goodwill', NULL, 'basic', NULL, 200, NULL, NULL)",
    )
    light.calls(MARCH, (ONE, 1_310))
    light.bill(MARCH)
    light.bill(APRIL)

    assert light.lines(MARCH, ONE)[2:] == [("discount", -2_050), ("discount", -200), ("fee", 3_100)]
    assert light.lines(APRIL, ONE) == [("discount", -200), ("fee", 3_100)]
    light.must_agree(MARCH)
    light.must_agree(APRIL)


def test_a_discount_of_one_user_leaves_others_of_the_same_plan_alone(light: SmallPlatform) -> None:
    light.accounts(ONE, TWO, plan_id="basic")
    light.sql(f"INSERT INTO billing_discounts VALUES ('Deal', '{TWO}', NULL, 50, NULL, NULL, NULL)")
    light.calls(MARCH, (ONE, 1_310), (TWO, 1_310))
    light.bill(MARCH)
    assert [light.bill_of(MARCH, user).total_cents for user in (ONE, TWO)] == [4_100, 2_050]
    light.must_agree(MARCH)


def test_lines_of_the_month_before_that_cannot_be_read_stop_the_proof_of_fees_by_name(
    light: SmallPlatform,
) -> None:
    light.accounts(ONE, plan_id="basic")
    light.calls(MARCH, (ONE, 1_310))
    light.bill(MARCH)
    light.calls(APRIL, (ONE, 1_310))
    light.bill(APRIL)
    light.sql("UPDATE ledger_invoices SET lines = '[{' WHERE month = '2025-03'")
    with pytest.raises(IntegrityError, match=f"The bill of user {ONE} for 2025-03"):
        light.reconcile(APRIL)


def test_a_plan_in_another_currency_fails_its_user_alone(light: SmallPlatform) -> None:
    light.sql("UPDATE billing_plans SET currency = 'eur' WHERE plan_id = 'pro'")
    light.accounts(ONE, plan_id="pro")
    light.accounts(TWO)
    light.calls(MARCH, (ONE, 500), (TWO, 500))
    light.bill(MARCH)

    assert light.bill_of(MARCH, ONE).reason is Reason.PLAN_CURRENCY
    assert light.bill_of(MARCH, TWO).state is State.FINALIZED


def test_a_fee_or_discount_that_was_altered_in_the_ledger_is_named(light: SmallPlatform) -> None:
    light.accounts(ONE, plan_id="basic")
    light.calls(MARCH, (ONE, 500))
    light.bill(MARCH)
    light.sql(
        "UPDATE ledger_invoices SET lines = replace(lines, '3100', '3200'), total_cents = total_cents + 100"
    )

    assert (ONE, "plan_differs") in light.findings(MARCH)


def test_a_plan_that_was_altered_in_the_ledger_is_named(light: SmallPlatform) -> None:
    light.accounts(ONE, plan_id="basic")
    light.accounts(TWO)
    light.calls(MARCH, (ONE, 500), (TWO, -500))
    light.bill(MARCH)
    light.must_agree(MARCH)
    light.sql(
        f"UPDATE ledger_invoices SET plan_id = 'pro' WHERE user_id = '{ONE}'",
        # Covers nothing of a refund, and would cover late usage.
        f"UPDATE ledger_invoices SET included_cents = 1 WHERE user_id = '{TWO}'",
    )

    found = {
        each.user_id: (each.kind, each.expected[:20], each.found[:25])
        for each in light.reconcile(MARCH).findings
    }
    assert found[ONE][0] == found[TWO][0] == "plan_differs"
    assert found[ONE][1:] == ("plan basic, included", "plan pro, included $3.10,")
    assert found[TWO][1:] == ("plan None, included ", "plan None, included $0.01")


def test_plans_that_were_altered_after_the_freeze_stop_the_month(light: SmallPlatform) -> None:
    light.accounts(ONE, plan_id="basic")
    light.calls(MARCH, (ONE, 500))
    light.draft(MARCH)
    frozen = light.store.latest(MARCH)
    assert frozen is not None
    assert frozen.manifest.plans is not None
    path = frozen.directory / frozen.manifest.plans.name
    path.write_bytes(path.read_bytes() + b" ")

    with pytest.raises(IntegrityError, match="not what was frozen"):
        light.send(MARCH)


def test_an_empty_ledger_takes_up_fees_as_they_were_invoiced(light: SmallPlatform) -> None:
    light.accounts(ONE, plan_id="basic")
    light.accounts(TWO, plan_id="least")
    light.calls(MARCH, (ONE, 500))
    light.bill(MARCH)
    before = light.lines(MARCH, ONE)
    light.lose_the_ledger()
    light.bill(MARCH)

    assert light.lines(MARCH, ONE) == before
    assert len(light.standing()) == 2
    light.must_agree(MARCH)


def test_an_erased_user_s_plans_name_the_pseudonym_alone(light: SmallPlatform) -> None:
    light.accounts(ONE, plan_id="basic")
    light.calls(MARCH, (ONE, 500))
    light.bill(MARCH)
    erasure = Erasure(ONE, "erased-0123456789ab")

    assert erase_in_store(light.store, erasure, until=MAY) == 1
    assert not names_user(light.store, ONE)
    frozen = light.store.latest(MARCH)
    assert frozen is not None
    light.store.verify(frozen)
    book = read_book(frozen)
    assert book is not None
    assert book.users_charged_alone() == {erasure.pseudonym}
