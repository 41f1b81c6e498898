"""A coupon at Stripe on bills of users with a plan: it takes nothing off what the plan includes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spell_billing.core.lines import Line
from spell_billing.core.terms import OFF, ON, Policy
from spell_billing.invoicing import requests
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform
from spell_billing_tests.proof.test_coupons import HONOURED, ONE, TWO, with_coupon


def on_plan(platform: SmallPlatform, percent: int, policy: Policy = HONOURED) -> None:
    """Put both users on a plan that includes 310 cents, the first with a coupon."""
    with_coupon(platform, policy, double_coupon=str(percent))
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 310}])
    platform.sql("UPDATE billing_accounts SET plan_id = 'pro'")


@pytest.mark.parametrize("tax", [OFF, ON])
@pytest.mark.parametrize(("percent", "left"), [(100, 0), (50, 345)])
def test_a_coupon_takes_nothing_off_what_a_plan_includes(
    light_platform: SmallPlatform, percent: int, left: int, tax: str
) -> None:
    on_plan(light_platform, percent, Policy(tax, discounts=True))
    light_platform.calls(MARCH, (ONE, 1000), (TWO, 1000))
    light_platform.bill(MARCH)

    terms = [light_platform.bill_of(MARCH, user).parsed_terms for user in (ONE, TWO)]
    for _ in range(2):
        assert [each.total_cents for each in light_platform.standing()] == [left, 690]
        bill = light_platform.bill_of(MARCH, ONE)
        assert (bill.total_cents, bill.discount_cents, bill.invoice_cents) == (690, 690 - left, left)
        assert light_platform.lines(MARCH, ONE) == [("usage", 1000), ("included", -310)]
        light_platform.must_agree(MARCH)
        assert [light_platform.bill_of(MARCH, user).parsed_terms for user in (ONE, TWO)] == terms
        light_platform.lose_the_ledger()
        assert light_platform.bill(MARCH).sweep.adopted == 2


def test_beside_a_line_below_zero_a_coupon_takes_nothing_off_what_a_plan_includes_either(
    light_platform: SmallPlatform,
) -> None:
    on_plan(light_platform, 50, Policy(ON, discounts=True))
    light_platform.calls(MARCH, (ONE, 1000))
    light_platform.bill(MARCH)
    light_platform.sql("UPDATE usage_counters SET cost_cents = 800")
    light_platform.calls(APRIL, (ONE, 1310))
    light_platform.bill(APRIL)

    assert light_platform.lines(APRIL, ONE) == [("usage", 1310), ("included", -310), ("late_usage", -100)]
    assert light_platform.bill_of(APRIL, ONE).discount_cents == 500
    light_platform.must_agree(APRIL)


@contextmanager
def lines_as_they_are(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make invoices as before plans were taken off the charges."""

    def amounts(lines: list[Line]) -> list[int]:
        return [line.amount_cents for line in lines]

    with monkeypatch.context() as before:
        before.setattr(requests, "net_amounts", amounts)
        yield


def test_an_invoice_that_showed_all_lines_as_they_are_agrees(
    light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_plan(light_platform, 50)
    light_platform.calls(MARCH, (ONE, 1000))
    with lines_as_they_are(monkeypatch):
        light_platform.bill(MARCH)

    assert light_platform.bill_of(MARCH, ONE).discount_cents == 500
    light_platform.bill(MARCH, verify=True)
    light_platform.must_agree(MARCH)


def test_a_draft_that_showed_all_lines_as_they_are_is_made_again(
    light_platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_plan(light_platform, 50)
    light_platform.calls(MARCH, (ONE, 1000))
    with lines_as_they_are(monkeypatch):
        for nth in range(1, 1 + light_platform.tries):
            light_platform.double.arm("lost_before", operation="invoices.finalize", nth=nth)
        assert light_platform.bill(MARCH).unfinished
    light_platform.double.disarm()
    light_platform.bill(MARCH)

    assert [each.total_cents for each in light_platform.standing()] == [345]
    light_platform.must_agree(MARCH)


@pytest.mark.parametrize("tax", [OFF, ON])
def test_a_lost_ledger_takes_no_invoice_with_coupons_for_one_with_tax(
    light_platform: SmallPlatform, tax: str
) -> None:
    on_plan(light_platform, 50, Policy(tax, discounts=True))
    light_platform.calls(MARCH, (ONE, 1000), (TWO, 1000))
    light_platform.bill(MARCH)
    light_platform.lose_the_ledger()
    light_platform.policy = Policy()
    assert light_platform.bill(MARCH).sweep.adopted == 2

    terms = [light_platform.bill_of(MARCH, user).parsed_terms for user in (ONE, TWO)]
    assert [each.is_taxed for each in terms] == [tax == ON] * 2
    light_platform.must_agree(MARCH)
