"""A fee charged a month ahead is charged once, whatever is drafted again and whatever the setting says."""

from dataclasses import replace

import pytest

from spell_billing.core.errors import IntegrityError
from spell_billing.core.outcomes import Reason
from spell_billing.core.terms import USUAL_POLICY, Policy
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform
from spell_billing_tests.proof.test_plans import ONE, TWO, subscribe, with_plans

IN_ADVANCE = Policy(fees_in_advance=True)


@pytest.fixture
def light(light_platform: SmallPlatform) -> SmallPlatform:
    return with_plans(light_platform)


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
