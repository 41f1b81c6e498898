"""A customer's coupon at Stripe stays out, or stands beside the total where the setting honours it."""

from typing import Any

import pytest

from spell_billing.core.terms import CARRY, OFF, ON, Policy
from spell_billing.reporting.status import month_status
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY, NOW, SmallPlatform
from spell_billing_tests.proof.test_plans import subscribe, with_plans

ONE, TWO = "user-0001", "user-0002"
HONOURED = Policy(discounts=True)


def with_coupon(platform: SmallPlatform, policy: Policy, **metadata: str) -> SmallPlatform:
    """Give two users an account, the first with a coupon of 20 per cent at Stripe."""
    platform.policy = policy
    platform.accounts(ONE, TWO)
    platform.double.add_customer(f"cus_{ONE}", metadata={"double_coupon": "20", **metadata})
    return platform


def test_a_coupon_stays_out_unless_it_is_honoured(platform: SmallPlatform) -> None:
    with_coupon(platform, Policy())
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    platform.bill(MARCH)

    assert [each.total_cents for each in platform.standing()] == [1000, 500]
    assert platform.bill_of(MARCH, ONE).discount_cents is None
    assert not platform.standing()[0].lines[0].discountable
    platform.must_agree(MARCH)


def test_a_coupon_that_is_honoured_stands_beside_the_total(platform: SmallPlatform) -> None:
    with_coupon(platform, HONOURED)
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    assert platform.bill(MARCH).invoiced == 2

    assert [each.total_cents for each in platform.standing()] == [800, 500]
    bill = platform.bill_of(MARCH, ONE)
    assert (bill.total_cents, bill.discount_cents, bill.invoice_cents) == (1000, 200, 800)
    assert platform.bill_of(MARCH, TWO).discount_cents == 0
    result = platform.must_agree(MARCH)
    assert (result.ledger_cents, result.ledger_discount_cents) == (1300, 200)
    with platform.ledger() as ledger:
        status: dict[str, Any] = month_status(ledger, MARCH, NOW).as_json()
    assert (status["total_cents"], status["discount_cents"]) == (1500, 200)
    story = platform.explain(MARCH, ONE)
    assert "of $8.00" in story["answer"]
    assert story["bills"][0]["discount_cents"] == 200


@pytest.mark.parametrize(
    ("percent", "first", "then", "came_back"), [(100, 0, 0, 0), (50, -300, -200, 300), (20, -480, -320, 480)]
)
def test_of_usage_that_went_no_more_is_given_back_than_a_coupon_left_to_pay(
    light_platform: SmallPlatform, percent: int, first: int, then: int, came_back: int
) -> None:
    platform = with_coupon(light_platform, HONOURED, double_coupon=str(percent))
    platform.calls(MARCH, (ONE, 600), (ONE, 400))
    platform.bill(MARCH)
    platform.double.add_customer(f"cus_{ONE}")
    given = []
    for month, gone in ((APRIL, 600), (MAY, 400)):
        platform.sql(f"DELETE FROM usage_counters WHERE user_id = '{ONE}' AND cost_cents = {gone}")
        platform.calls(month, (ONE, 2000))
        platform.bill(month)
        platform.must_agree(month)
        given.append(sum(cents for kind, cents in platform.lines(month, ONE) if kind == "late_usage"))

    assert given == [first, then]
    assert sum(given) == -platform.bill_of(MARCH, ONE).invoice_cents, (
        "all that was paid for March, and no more"
    )
    platform.calls(MARCH, (ONE, 600))
    platform.calls(JUNE, (ONE, 2000))
    platform.bill(JUNE)
    platform.must_agree(JUNE)
    assert sum(cents for kind, cents in platform.lines(JUNE, ONE) if kind == "late_usage") == came_back


@pytest.mark.parametrize(("back", "line"), [(600, 300), (300, 150), (800, 500)])
def test_usage_that_comes_back_is_charged_as_it_was_given_back_whatever_coupon_there_is_by_then(
    light_platform: SmallPlatform, back: int, line: int
) -> None:
    platform = with_coupon(light_platform, HONOURED, double_coupon="50")
    platform.calls(MARCH, (ONE, 600), (ONE, 400))
    platform.bill(MARCH)
    platform.sql("DELETE FROM usage_counters WHERE cost_cents = 600")
    platform.calls(APRIL, (ONE, 2000))
    platform.bill(APRIL)
    platform.calls(MARCH, (ONE, back))
    for month in (MAY, JUNE):
        platform.calls(month, (ONE, 2000))
        platform.bill(month)

    for _ in range(2):
        charged = [[each for each in platform.lines(month, ONE) if each[1]] for month in (MAY, JUNE)]
        assert charged == [[("usage", 2000), ("late_usage", line)], [("usage", 2000)]]
        assert [each.total_cents for each in platform.standing()] == [500, 700, 1000 + line, 1000]
        for month in (MARCH, APRIL, MAY, JUNE):
            platform.must_agree(month)
        platform.lose_the_ledger()
        for month in (MARCH, APRIL, MAY, JUNE):
            platform.bill(month, verify=True)


def test_a_changed_setting_changes_no_bill_that_is_drafted(platform: SmallPlatform) -> None:
    with_coupon(platform, HONOURED)
    platform.calls(MARCH, (ONE, 1000))
    platform.draft(MARCH)
    for nth in range(1, 1 + platform.tries):
        platform.double.arm("lost_after", operation="invoices.add_lines", nth=nth)
    assert platform.send(MARCH).unfinished
    platform.double.disarm()
    platform.policy = Policy()
    platform.bill(MARCH)

    assert [each.discount_cents for each in platform.standing()] == [200]
    platform.must_agree(MARCH)


def test_a_coupon_given_at_stripe_between_draft_and_next_run_is_on_the_next_invoice(
    light_platform: SmallPlatform,
) -> None:
    platform = with_coupon(light_platform, HONOURED)
    platform.calls(MARCH, (TWO, 500))
    platform.bill(MARCH)
    platform.double.add_customer(f"cus_{TWO}", metadata={"double_coupon": "50"})
    platform.calls(APRIL, (TWO, 500))
    platform.bill(APRIL)

    assert [platform.bill_of(month, TWO).discount_cents for month in (MARCH, APRIL)] == [0, 250]
    platform.must_agree(MARCH)
    platform.must_agree(APRIL)


def test_a_coupon_for_everything_leaves_an_invoice_of_nothing(light_platform: SmallPlatform) -> None:
    platform = with_coupon(light_platform, HONOURED)
    platform.double.add_customer(f"cus_{ONE}", metadata={"double_coupon": "100"})
    platform.calls(MARCH, (ONE, 1000))
    platform.bill(MARCH)

    bill = platform.bill_of(MARCH, ONE)
    assert (bill.state, bill.total_cents, bill.invoice_cents) == ("paid", 1000, 0)
    platform.must_agree(MARCH)


def test_tax_is_on_what_the_discount_leaves_and_a_credit_is_not_discounted(platform: SmallPlatform) -> None:
    with_coupon(platform, Policy(ON, discounts=True), double_tax="10")
    platform.calls(MARCH, (ONE, 1000), (TWO, -100))
    platform.bill(MARCH)
    platform.double.add_customer(f"cus_{TWO}", metadata={"double_coupon": "20"})
    platform.calls(APRIL, (TWO, 1000))
    platform.bill(APRIL)

    taxed = platform.bill_of(MARCH, ONE)
    assert (taxed.discount_cents, taxed.tax_cents, taxed.invoice_cents) == (200, 80, 880)
    credited = platform.bill_of(APRIL, TWO)
    assert (credited.total_cents, credited.discount_cents, credited.invoice_cents) == (900, 200, 700)
    assert credited.without_tax == "negative_line"
    platform.must_agree(MARCH)
    platform.must_agree(APRIL)


def test_late_usage_is_charged_by_its_rating_whatever_a_coupon_took_off(platform: SmallPlatform) -> None:
    with_coupon(platform, HONOURED)
    platform.calls(MARCH, (ONE, 1000))
    platform.bill(MARCH)
    platform.calls(MARCH, (ONE, 100))
    platform.calls(APRIL, (ONE, 500))
    platform.bill(APRIL)

    bill = platform.bill_of(APRIL, ONE)
    assert (bill.total_cents, bill.late_cents, bill.discount_cents) == (600, 100, 120)
    platform.must_agree(APRIL)


@pytest.mark.parametrize("then", [HONOURED, Policy(OFF)])
def test_a_lost_ledger_gets_total_and_discount_back(platform: SmallPlatform, then: Policy) -> None:
    with_coupon(platform, HONOURED)
    platform.calls(MARCH, (ONE, 1000), (TWO, 500))
    platform.bill(MARCH)
    platform.policy = then
    platform.lose_the_ledger()
    assert platform.bill(MARCH).sweep.adopted == 2

    bill = platform.bill_of(MARCH, ONE)
    assert (bill.total_cents, bill.discount_cents) == (1000, 200)
    assert len(platform.standing()) == 2
    platform.must_agree(MARCH)


def test_of_what_a_coupon_took_off_a_part_is_for_what_was_brought_forward(
    light_platform: SmallPlatform,
) -> None:
    platform = with_coupon(light_platform, Policy(discounts=True, small_amounts=CARRY), double_coupon="50")
    platform.calls(MARCH, (ONE, 40))
    platform.bill(MARCH)
    platform.calls(APRIL, (ONE, 100))
    platform.bill(APRIL)
    assert platform.bill_of(APRIL, ONE).discount_cents == 70
    platform.sql("DELETE FROM usage_counters WHERE cost_cents = 100")
    platform.calls(MAY, (ONE, 2000))
    platform.bill(MAY)

    # Half of April's 100 was paid.
    assert platform.lines(MAY, ONE) == [("usage", 2000), ("late_usage", -50)]
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_a_coupon_s_part_of_a_fee_leaves_out_what_was_brought_forward(light_platform: SmallPlatform) -> None:
    policy = Policy(discounts=True, fees_in_advance=True, small_amounts=CARRY)
    platform = with_coupon(with_plans(light_platform), policy, double_coupon="50")
    platform.calls(MARCH, (ONE, 40))
    platform.bill(MARCH)
    subscribe(platform, ONE, "basic", "2025-05-01", None)
    platform.calls(APRIL, (ONE, 20))
    platform.bill(APRIL)
    assert platform.bill_of(APRIL, ONE).discount_cents == (3_100 + 20 + 40) // 2
    platform.sql("UPDATE plan_subscriptions SET ends_at = '2025-05-01'")
    platform.calls(MAY, (ONE, 5_000))
    platform.bill(MAY)

    assert ("fee", -1_550) in platform.lines(MAY, ONE)
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_an_altered_discount_is_found(light_platform: SmallPlatform) -> None:
    platform = with_coupon(light_platform, HONOURED)
    platform.calls(MARCH, (ONE, 1000))
    platform.bill(MARCH)
    platform.sql("UPDATE ledger_invoices SET discount_cents = 100, total_cents = 900")

    assert (ONE, "amount_differs") in platform.findings(MARCH)
