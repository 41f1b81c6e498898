"""Plans with fees, from the platform's tables to the invoice: frozen with the month, charged once, proven."""

from dataclasses import replace

import pytest

from spell_billing.core.erasure import Erasure
from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.terms import USUAL_POLICY, Policy
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


def test_fees_in_advance_are_charged_once_whatever_the_setting_and_the_plan_do_afterwards(
    light: SmallPlatform,
) -> None:
    light.accounts(ONE, TWO)
    subscribe(light, ONE, "basic", None, None)
    subscribe(light, TWO, "basic", None, None)
    ahead = replace(light, policy=IN_ADVANCE)
    ahead.bill(MARCH)
    light.sql("UPDATE plan_subscriptions SET ends_at = '2025-04-16' WHERE user_id = 'user-0001'")
    ahead.bill(APRIL)
    light.bill(MAY)

    assert light.lines(MARCH, ONE) == [("fee", 3_100), ("fee_in_advance", 3_100)]
    assert light.lines(APRIL, ONE) == [("fee", -1_550)]
    assert light.lines(APRIL, TWO) == [("fee_in_advance", 3_100)]
    assert light.generations(MAY, TWO) == []
    assert light.bill_of(APRIL, ONE).reason is Reason.CREDIT_CARRIED
    for month in (MARCH, APRIL, MAY):
        light.must_agree(month)


@pytest.mark.parametrize(("before", "again"), [(IN_ADVANCE, USUAL_POLICY), (USUAL_POLICY, IN_ADVANCE)])
def test_a_bill_that_is_drafted_again_charges_in_advance_what_the_next_month_has_counted_with(
    light: SmallPlatform, before: Policy, again: Policy
) -> None:
    light.accounts(ONE, TWO)
    subscribe(light, ONE, "basic", None, None)
    subscribe(light, TWO, "basic", None, None)
    first, second = replace(light, policy=before), replace(light, policy=again)
    first.bill(MARCH)
    light.sql("UPDATE plan_subscriptions SET ends_at = '2025-04-16' WHERE user_id = 'user-0001'")
    light.calls(APRIL, (ONE, 5_000), (TWO, 5_000))
    first.bill(APRIL)
    charged = {user: light.lines(MARCH, user) for user in (ONE, TWO)}
    for user in (ONE, TWO):
        light.void(MARCH, user)
    second.bill(MARCH)

    assert {user: light.lines(MARCH, user) for user in (ONE, TWO)} == charged
    light.must_agree(MARCH)
    light.must_agree(APRIL)


@pytest.mark.parametrize(("before", "again"), [(IN_ADVANCE, USUAL_POLICY), (USUAL_POLICY, IN_ADVANCE)])
def test_a_month_that_is_drafted_again_as_a_whole_charges_what_the_next_one_has_counted_with(
    light: SmallPlatform, before: Policy, again: Policy
) -> None:
    light.accounts(ONE, TWO, plan_id="basic")
    first, second = replace(light, policy=before), replace(light, policy=again)
    light.calls(MARCH, (ONE, 100))
    first.draft(MARCH)
    drafted = {user: light.lines(MARCH, user) for user in (ONE, TWO)}
    light.calls(APRIL, (TWO, 100))
    first.bill(APRIL)

    second.bill(MARCH)

    assert {user: light.lines(MARCH, user) for user in (ONE, TWO)} == drafted
    light.must_agree(MARCH)
    light.must_agree(APRIL)


def test_drafts_that_count_with_a_fee_which_the_month_before_charges_no_more_are_not_sent(
    light: SmallPlatform,
) -> None:
    light.accounts(ONE, TWO, plan_id="basic")
    light.calls(MARCH, (ONE, 100), (TWO, 100))
    light.calls(APRIL, (ONE, 100))
    ahead = replace(light, policy=IN_ADVANCE)
    ahead.draft(MARCH)
    ahead.draft(APRIL)
    light.draft(MARCH)

    with pytest.raises(IntegrityError, match=r"2025-03 was drafted again since.*drafts of the month again"):
        light.send(APRIL)

    assert light.standing() == []
    light.send(MARCH)
    light.bill(APRIL)
    for month in (MARCH, APRIL):
        light.must_agree(month)


def test_a_fee_in_advance_that_a_discount_makes_up_for_is_charged_once(light: SmallPlatform) -> None:
    light.accounts(ONE, plan_id="basic")
    light.sql("INSERT INTO billing_discounts VALUES ('Partner', 'user-0001', NULL, 100, NULL, NULL, NULL)")
    ahead = replace(light, policy=IN_ADVANCE)
    for month in (MARCH, APRIL, MAY):
        light.calls(month, (ONE, 100))
        ahead.bill(month)

    assert light.lines(MAY, ONE)[2:] == [("discount", -3_100), ("fee_in_advance", 3_100)]
    for month in (MARCH, APRIL, MAY):
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


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "{SUBSCRIBE} ('u', 'pro', NULL, NULL), ('u', 'basic', '2025-03-20', NULL)",
            "u ",
        ),
        ("{SUBSCRIBE} ('u', 'gold', NULL, NULL)", "gold"),
        (
            "{SUBSCRIBE} ('u', 'pro', '2025-03-20', '2025-03-10')",
            "before it starts",
        ),
        ("{SUBSCRIBE} ('u', NULL, NULL, NULL)", "names no plan"),
        # To PostgreSQL a moment that never comes.
        ("{SUBSCRIBE} ('u', 'pro', 'infinity', NULL)", "starts_at 'infinity'"),
        ("{SUBSCRIBE} ('u', 'pro', NULL, '-infinity')", "ends_at '-infinity'"),
        ("UPDATE billing_plans SET currency = 'dollars'", "'dollars'"),
        ("UPDATE billing_plans SET monthly_fee_cents = -1", "monthly_fee_cents"),
        ("UPDATE billing_plans SET usage_discount_percent = 101", "usage_discount_percent"),
        ("INSERT INTO billing_discounts (name, percent) VALUES ('Everyone', 10)", "no user and no plan"),
        ("INSERT INTO billing_discounts (name, user_id) VALUES ('Half', 'u')", "'Half' takes nothing off"),
        ("INSERT INTO billing_discounts (name, plan_id) VALUES ('Gold', 'gold')", "gold"),
        (
            "INSERT INTO billing_discounts (name, user_id, percent) VALUES ('1', 'u', 5), ('1', 'u', 5)",
            "'1' stands twice",
        ),
        (
            "{DISCOUNT} ('New', 'u', 5, NULL), ('new', 'u', 5.0, '2025-05-01')",
            "'new' stands twice, for the same user or plan and some of the same time",
        ),
        (
            "INSERT INTO billing_discounts (name, user_id, percent) VALUES ('1', ' U', 5)",
            "billing_discounts names users as billing_accounts does not write them: ' U' ",
        ),
        (
            "{SUBSCRIBE} ('U', 'pro', NULL, NULL)",
            "plan_subscriptions names users as billing_accounts does not write them: 'U' ",
        ),
    ],
)
def test_what_cannot_be_billed_from_is_refused_by_name_and_nothing_is_frozen(
    plans: SmallPlatform, statement: str, says: str
) -> None:
    discount = "INSERT INTO billing_discounts (name, user_id, percent, ends_at) VALUES"
    plans.accounts("u")
    plans.sql(statement.format(SUBSCRIBE="INSERT INTO plan_subscriptions VALUES", DISCOUNT=discount))

    with pytest.raises(UsageError, match=says) as refused:
        plans.bill(MARCH)

    assert refused.value.remedy
    assert plans.store.versions(MARCH) == []


def test_a_time_beyond_all_times_in_utc_is_refused_by_name(light: SmallPlatform) -> None:
    subscribe(light, ONE, "pro", None, "9999-12-31 23:59:59-05:00")

    with pytest.raises(UsageError, match=r"plan_subscriptions of user .* has ends_at '9999-12-31"):
        light.bill(MARCH)


@pytest.mark.both_databases
@pytest.mark.parametrize("table", ["plan_subscriptions", "billing_discounts"])
def test_what_counts_for_plans_alone_is_refused_without_any(plans: SmallPlatform, table: str) -> None:
    columns = "user_id, plan_id" if table == "plan_subscriptions" else "user_id, name"
    plans.sql(f"INSERT INTO {table} ({columns}) VALUES ('{ONE}', 'basic')", "DROP TABLE billing_plans")

    with pytest.raises(UsageError, match=f"{table} has rows, but there is no billing_plans"):
        plans.bill(MARCH)


@pytest.mark.parametrize(("table", "says"), [("billing_accounts", ONE), ("billing_plans", "basic")])
def test_accounts_and_plans_that_stand_twice_are_refused_before_a_fee_is_charged_twice(
    light: SmallPlatform, table: str, says: str
) -> None:
    light.accounts(ONE, plan_id="basic")
    light.sql(
        f"ALTER TABLE {table} RENAME TO once",
        f"CREATE VIEW {table} AS SELECT * FROM once UNION ALL SELECT * FROM once",
    )

    with pytest.raises(UsageError, match=says):
        light.bill(MARCH)

    assert light.store.versions(MARCH) == []


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
