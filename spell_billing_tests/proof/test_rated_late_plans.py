"""Late usage of months with rate cards: of which plan the cards are, for users with subscriptions."""

import pytest

from spell_billing_tests.proof.leavers import ANN, BOB
from spell_billing_tests.proof.priced import BY_ENDPOINT, CHEAP, DEAR, cards, insert
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform


@pytest.mark.both_databases
@pytest.mark.parametrize("of_account", [None, "cheap"])
def test_calls_of_who_had_none_on_time_are_priced_by_the_subscription_of_now_whatever_the_account_says(
    platform: SmallPlatform, of_account: str | None
) -> None:
    platform.rules = BY_ENDPOINT
    platform.accounts(BOB)
    cards(platform, DEAR, CHEAP)
    platform.sql(
        "UPDATE billing_plans SET included_cents = 250 WHERE plan_id = 'dear'",
        "CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at text, ends_at text)",
    )
    insert(platform, MARCH, (BOB, 0, "/chat"))
    platform.bill(MARCH)
    platform.accounts(ANN, plan_id=of_account)
    platform.sql(f"INSERT INTO plan_subscriptions VALUES ('{ANN}', 'dear', '2025-04-01', NULL)")
    insert(platform, MARCH, *[(ANN, 7, "/chat")] * 6)
    insert(platform, APRIL, (BOB, 0, "/chat"))
    platform.bill(APRIL)

    # Prices and allowance are of one plan: 6 x 100 cents, of which 250 are included.
    assert platform.lines(APRIL, ANN) == [("late_usage", 350)]

    # What comes after the subscription is priced by it, too.
    platform.sql(f"UPDATE plan_subscriptions SET ends_at = '2025-05-01' WHERE user_id = '{ANN}'")
    insert(platform, MARCH, (ANN, 7, "/chat"))
    platform.bill(MAY)
    assert platform.lines(MAY, ANN) == [("late_usage", 100)]
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_calls_of_a_subscription_have_its_prices_also_where_the_account_comes_after_the_freeze(
    platform: SmallPlatform,
) -> None:
    platform.rules = BY_ENDPOINT
    platform.accounts(BOB)
    cards(platform, DEAR)
    platform.sql(
        "CREATE TABLE plan_subscriptions (user_id text, plan_id text, starts_at text, ends_at text)",
        f"INSERT INTO plan_subscriptions VALUES ('{ANN}', 'dear', '2025-03-01', '2025-04-01')",
    )
    insert(platform, MARCH, (BOB, 300, "/chat"), *[(ANN, 7, "/chat")] * 6)
    platform.bill(MARCH)
    assert platform.lines(MARCH, ANN) == [("usage", 600)]

    platform.accounts(ANN)
    insert(platform, MARCH, (ANN, 7, "/chat"))
    platform.bill(MARCH)
    assert platform.lines(MARCH, ANN) == [("usage", 600), ("late_usage", 100)]
    platform.must_agree(MARCH)
