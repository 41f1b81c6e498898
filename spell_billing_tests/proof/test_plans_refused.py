"""Plans, subscriptions and discounts that cannot be billed from are refused by name, nothing frozen."""

import pytest

from spell_billing.core.errors import UsageError
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform
from spell_billing_tests.proof.test_plans import ONE, subscribe, with_plans


@pytest.fixture
def plans(platform: SmallPlatform) -> SmallPlatform:
    return with_plans(platform)


@pytest.fixture
def light(light_platform: SmallPlatform) -> SmallPlatform:
    return with_plans(light_platform)


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
        ("{SUBSCRIBE} (' ', 'pro', '2025-03-20', NULL)", "the plan 'pro' without a user_id"),
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
            "billing_discounts writes user ids differently from billing_accounts: ' U' ",
        ),
        (
            "{SUBSCRIBE} ('U', 'pro', NULL, NULL)",
            "plan_subscriptions writes user ids differently from billing_accounts: 'U' ",
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
