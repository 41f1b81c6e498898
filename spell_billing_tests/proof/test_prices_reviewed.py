"""Prices that a month has lost since the one before hold it until a person looks."""

import pytest

from spell_billing.core.terms import CARRY, FORGIVE, Policy
from spell_billing.usage.contract import SourceRules
from spell_billing_tests.proof.reviewing import CALL, FEBRUARY, MARCH, USERS, findings, live_through
from spell_billing_tests.proof.small_platform import SmallPlatform

PLANS = (
    "ALTER TABLE billing_plans ADD COLUMN monthly_fee_cents bigint",
    "INSERT INTO billing_plans VALUES ('pro', 'Pro', 100, 900), ('max', 'Max', 200, 1900)",
    "UPDATE billing_accounts SET plan_id = 'pro'",
)
CARDS = (
    "CREATE TABLE rate_cards (item text, model text, unit text, unit_price_cents text, valid_from text)",
    "INSERT INTO rate_cards VALUES (NULL, 'flat', 'call', '990', NULL)",
)
DISCOUNTS = (
    (
        "CREATE TABLE billing_discounts (user_id text, plan_id text, name text, percent text, "
        "amount_cents bigint, starts_at text, ends_at text)"
    ),
    "INSERT INTO billing_discounts VALUES ('anna', NULL, 'Partner', '10', NULL, NULL, NULL)",
)


@pytest.mark.parametrize(
    ("before", "meanwhile", "said"),
    [
        (PLANS, "DROP TABLE billing_plans", "2 of 2 users are on no plan (anna, bert)"),
        (PLANS, "UPDATE billing_accounts SET plan_id = NULL", "2 of 2 users are on no plan (anna, bert)"),
        (PLANS, "UPDATE billing_plans SET monthly_fee_cents = NULL", "plan pro has no monthly fee"),
        (PLANS, "ALTER TABLE billing_plans RENAME monthly_fee_cents TO fee", "plan pro has no monthly fee"),
        (PLANS, "UPDATE billing_plans SET included_cents = 0", "plan pro has no allowance"),
        (CARDS, "DELETE FROM rate_cards", "rate_cards lacks every plan and every item"),
        (CARDS, "DROP TABLE rate_cards", "rate_cards lacks every plan and every item"),
        ((*PLANS, *DISCOUNTS), "DELETE FROM billing_discounts", "lacks Partner of user anna"),
        ((*PLANS, *DISCOUNTS), "DROP TABLE billing_discounts", "lacks Partner of user anna"),
        ((*PLANS, *DISCOUNTS), "UPDATE billing_discounts SET percent = '0.00'", "lacks Partner of user anna"),
    ],
)
def test_prices_that_vanished_are_reviewed(
    light_platform: SmallPlatform, before: tuple[str, ...], meanwhile: str, said: str
) -> None:
    ((code, text),) = live_through(light_platform, before, lambda: light_platform.sql(meanwhile))

    assert code == "prices_gone"
    assert text.startswith("2025-03 lacks prices that 2025-02 had: ")
    assert said in text


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [
        (PLANS, "UPDATE billing_plans SET monthly_fee_cents = 1000, included_cents = 1"),
        (PLANS, "UPDATE billing_accounts SET plan_id = 'max'"),
        (PLANS, "UPDATE billing_accounts SET plan_id = NULL WHERE user_id = 'anna'"),
        (PLANS, "DELETE FROM billing_plans WHERE plan_id = 'max'"),
        (CARDS, "INSERT INTO rate_cards VALUES (NULL, 'flat', 'call', '999', '2025-03-01')"),
        ((*PLANS, *DISCOUNTS), "UPDATE billing_discounts SET ends_at = '2025-03-01'"),
    ],
)
def test_prices_that_a_row_changed_or_ended_are_not(
    light_platform: SmallPlatform, before: tuple[str, ...], meanwhile: str
) -> None:
    assert live_through(light_platform, before, lambda: light_platform.sql(meanwhile)) == []


OPEN_SUBSCRIPTIONS = (
    *PLANS[:2],
    "CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at text, ends_at text)",
    "INSERT INTO plan_subscriptions VALUES ('anna', 'pro', NULL, NULL), ('bert', 'pro', NULL, NULL)",
)
END = "UPDATE plan_subscriptions SET ends_at = '2025-03-{day}'"


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [
        (OPEN_SUBSCRIPTIONS, (END.format(day="01"),)),
        (OPEN_SUBSCRIPTIONS, (END.format(day="16"),)),
        (
            OPEN_SUBSCRIPTIONS,
            (
                END.format(day="16"),
                "INSERT INTO plan_subscriptions VALUES ('anna', 'max', '2025-03-16', NULL)",
            ),
        ),
        (
            OPEN_SUBSCRIPTIONS,
            (
                END.format(day="01"),
                "INSERT INTO plan_subscriptions VALUES ('anna', 'max', '2025-04-01', NULL)",
            ),
        ),
        (
            PLANS,
            (
                OPEN_SUBSCRIPTIONS[2],
                "INSERT INTO plan_subscriptions VALUES ('anna', 'pro', '2024-11-01', NULL)",
                "INSERT INTO plan_subscriptions VALUES ('bert', 'pro', '2024-11-01', NULL)",
            ),
        ),
    ],
)
def test_subscriptions_of_all_that_ended_changed_or_took_over_from_accounts_are_not(
    light_platform: SmallPlatform, before: tuple[str, ...], meanwhile: tuple[str, ...]
) -> None:
    assert live_through(light_platform, before, lambda: light_platform.sql(*meanwhile)) == []


@pytest.mark.parametrize("end", ["2025-03-01", "2025-03-20"])
def test_subscriptions_that_are_over_and_switch_the_accounts_plan_off_for_all_are_reviewed(
    light_platform: SmallPlatform, end: str
) -> None:
    trial = f"SELECT user_id, 'max', '2025-02-20', '{end}' FROM billing_accounts"
    statements = (OPEN_SUBSCRIPTIONS[2], f"INSERT INTO plan_subscriptions {trial}")

    ((code, text),) = live_through(light_platform, PLANS, lambda: light_platform.sql(*statements))

    assert code == "prices_gone"
    assert "2 of 2 users are on no plan (anna, bert)" in text


@pytest.mark.parametrize(
    ("starts_at", "codes"),
    [("2025-04-01", ["prices_gone"]), ("2025-09-01", ["prices_gone"]), ("2025-03-31", [])],
)
def test_a_subscription_of_later_alone_that_switches_the_accounts_plan_off_is_reviewed(
    light_platform: SmallPlatform, starts_at: str, codes: list[str]
) -> None:
    subscribe = (
        "CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at text, ends_at text)",
        f"INSERT INTO plan_subscriptions VALUES ('anna', 'max', '{starts_at}', NULL)",
    )

    found = live_through(light_platform, PLANS, lambda: light_platform.sql(*subscribe))

    assert [code for code, _ in found] == codes
    assert not codes or "the account's plan does not count for anna, whose plan_subscriptions" in found[0][1]


ITEM_CARDS = (
    "CREATE TABLE rate_cards (item text, model text, unit text, unit_price_cents text, valid_from text)",
    "INSERT INTO rate_cards VALUES ('chat', 'flat', 'call', '15000', NULL)",
    "INSERT INTO rate_cards VALUES ('image', 'flat', 'call', '1', NULL)",
)


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("items", "said"),
    [
        (("chat", "chat"), None),
        (("chat-v2", "chat-v2"), "by the rate card of every plan and item chat (30,000 cents in 2025-02)"),
        (("chat", "Chat"), "1 of 2 calls cost nothing because no rate card prices them"),
        (("image", "image"), "by the rate card of every plan and item chat"),
        (("chat", "image"), None),
    ],
)
def test_items_that_the_cards_do_not_know_any_more_are_reviewed(
    platform: SmallPlatform, items: tuple[str, str], said: str | None
) -> None:
    platform.rules = SourceRules(items_by="endpoint")
    platform.accounts(*USERS)
    platform.sql(*ITEM_CARDS)
    platform.calls(FEBRUARY, *((user, 0) for user in USERS))
    platform.sql("UPDATE usage_counters SET endpoint = 'chat'")
    platform.bill(FEBRUARY)
    platform.calls(MARCH, *((user, 0) for user in USERS))
    for user, item in zip(USERS, items, strict=True):
        platform.sql(
            f"UPDATE usage_counters SET endpoint = '{item}' WHERE user_id = '{user}' AND endpoint IS NULL"
        )

    found = findings(platform)

    prices = [text for code, text in found if code == "prices_gone"]
    assert len(prices) == (1 if said else 0)
    assert said is None or said in prices[0]


def test_in_the_first_month_calls_of_who_is_on_no_plan_that_a_card_is_for_are_reviewed(
    light_platform: SmallPlatform,
) -> None:
    cards = (
        "CREATE TABLE rate_cards (plan_id text, model text, unit text, unit_price_cents text)",
        "INSERT INTO rate_cards VALUES ('pro', 'flat', 'call', '990')",
    )
    light_platform.accounts(*USERS)
    light_platform.sql(
        *PLANS[:2], *cards, "UPDATE billing_accounts SET plan_id = 'pro' WHERE user_id = 'anna'"
    )
    light_platform.calls(MARCH, ("anna", 0), ("anna", 0), ("bert", 0))

    ((code, text),) = findings(light_platform)

    assert code == "calls_unpriced"
    assert "1 of 3 calls cost nothing because no rate card prices them: 1 of users on no plan" in text


def test_in_the_first_month_items_that_no_card_knows_are_where_all_else_is_priced_by_cards(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(*USERS)
    light_platform.rules = SourceRules(items_by="endpoint")
    light_platform.sql(*ITEM_CARDS)
    light_platform.calls(MARCH, ("anna", 0), ("bert", 0))
    light_platform.sql("UPDATE usage_counters SET endpoint = 'chat'")
    light_platform.sql("UPDATE usage_counters SET endpoint = 'Chat' WHERE user_id = 'anna'")

    assert [code for code, _ in findings(light_platform)] == ["calls_unpriced"]


def test_in_the_first_month_calls_at_their_own_cost_or_at_a_price_of_nothing_are_not(
    light_platform: SmallPlatform,
) -> None:
    light_platform.accounts(*USERS)
    light_platform.rules = SourceRules(items_by="endpoint")
    light_platform.sql(*ITEM_CARDS, "INSERT INTO rate_cards VALUES ('health', 'flat', 'call', '0', NULL)")
    light_platform.calls(MARCH, ("anna", 0), ("bert", CALL), ("bert", 0))
    light_platform.sql("UPDATE usage_counters SET endpoint = 'health' WHERE user_id = 'anna'")
    light_platform.sql(
        "UPDATE usage_counters SET endpoint = 'status' WHERE user_id = 'bert' AND cost_cents = 0"
    )

    assert findings(light_platform) == []


SUBSCRIPTIONS = (
    *PLANS[:2],
    "CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at text, ends_at text)",
    "INSERT INTO plan_subscriptions VALUES ('anna', 'pro', NULL, '2024-11-01')",
    "INSERT INTO plan_subscriptions VALUES ('anna', 'max', '2024-11-01', NULL)",
    "INSERT INTO plan_subscriptions VALUES ('bert', 'pro', '2025-01-01', NULL)",
)


@pytest.mark.parametrize(
    ("meanwhile", "who"),
    [
        ("DELETE FROM plan_subscriptions WHERE plan_id = 'max'", "1 of 2 users vanished"),
        ("DELETE FROM plan_subscriptions WHERE user_id = 'bert'", "1 of 2 users vanished"),
        ("UPDATE plan_subscriptions SET ends_at = '2025-02-20' WHERE plan_id = 'max'", None),
        ("UPDATE plan_subscriptions SET ends_at = '2025-03-01' WHERE plan_id = 'max'", None),
        ("UPDATE plan_subscriptions SET ends_at = '2025-03-20' WHERE plan_id = 'max'", None),
        ("UPDATE plan_subscriptions SET plan_id = 'pro' WHERE plan_id = 'max'", None),
    ],
)
def test_a_subscription_that_vanished_is_told_from_one_that_ended_or_changed(
    light_platform: SmallPlatform, meanwhile: str, who: str | None
) -> None:
    found = live_through(light_platform, SUBSCRIPTIONS, lambda: light_platform.sql(meanwhile))

    assert [code for code, _ in found] == (["subscriptions_gone"] if who else [])
    assert who is None or who in found[0][1]


def test_a_plan_may_go_once_its_last_subscription_and_discount_have_ended(
    light_platform: SmallPlatform,
) -> None:
    end = (
        "UPDATE plan_subscriptions SET ends_at = '2025-03-01' WHERE plan_id = 'max'",
        "UPDATE billing_discounts SET ends_at = '2025-03-01', user_id = NULL, plan_id = 'max'",
        "DELETE FROM billing_plans WHERE plan_id = 'max'",
    )
    before = (
        *(*SUBSCRIPTIONS, *DISCOUNTS),
        "UPDATE billing_discounts SET user_id = NULL, plan_id = 'max'",
    )

    assert live_through(light_platform, before, lambda: light_platform.sql(*end)) == []


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("small_amounts", "minimum_cents", "said"),
    [
        (FORGIVE, 20_000, "$160.00 of $360.00 would be given up"),
        (CARRY, 30_000, "$360.00 of $360.00 would be left for later invoices"),
        (CARRY, 20_000, None),
        (FORGIVE, 50, None),
    ],
)
def test_a_first_month_of_which_much_is_too_small_is_reviewed(
    platform: SmallPlatform, small_amounts: str, minimum_cents: int, said: str | None
) -> None:
    platform.policy = Policy(small_amounts=small_amounts, minimum_cents=minimum_cents)
    platform.accounts(*USERS)
    platform.calls(MARCH, ("anna", 16_000), ("bert", 20_000))

    found = findings(platform)

    assert [code for code, _ in found] == (["small_amounts"] if said else [])
    if said:
        assert said in found[0][1]
