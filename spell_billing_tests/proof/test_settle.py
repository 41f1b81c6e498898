"""Nobody is stuck: a person closes a bill, the month follows, and nothing is charged behind their back."""

import pytest

from spell_billing.core.errors import LedgerError
from spell_billing.core.outcomes import Reason, State
from spell_billing_tests.proof.small_platform import APRIL, MARCH, SmallPlatform

ONE, TWO, FREE, LOST = "user-0001", "user-0002", "user-0003", "user-0004"


def with_a_failed_user(platform: SmallPlatform) -> SmallPlatform:
    platform.accounts(ONE, TWO)
    platform.calls(MARCH, (ONE, 1000), (TWO, 500), (LOST, 300))
    platform.bill(MARCH)
    assert platform.bill_of(MARCH, LOST).reason == "no_billing_account"
    assert platform.status(MARCH) == "partial"
    return platform


@pytest.mark.parametrize("how", ["billed-by-hand", "written-off"])
def test_a_failed_bill_that_is_settled_leaves_a_billed_month(platform: SmallPlatform, how: str) -> None:
    with_a_failed_user(platform)

    settled = platform.settle(MARCH, LOST, how)

    assert (settled.state, settled.reason) == (State.SETTLED, how.replace("-", "_"))
    assert platform.status(MARCH) == "billed"
    requests = len(platform.double.requests)
    assert platform.bill(MARCH).sent_nothing
    assert len(platform.double.requests) == requests
    platform.must_agree(MARCH)
    entry = next(each for each in platform.trail(MARCH, LOST) if each["action"] == "settled")
    assert (entry["actor"], entry["detail"]) == ("support", f"{how}: agreed by phone")


def test_a_settled_bill_is_not_billed_when_the_account_comes_after_all(light_platform: SmallPlatform) -> None:
    with_a_failed_user(light_platform).settle(MARCH, LOST, "billed-by-hand")
    light_platform.accounts(LOST)
    light_platform.bill(MARCH, verify=True)
    assert light_platform.bill_of(MARCH, LOST).state == "settled"
    assert [each.total_cents for each in light_platform.standing()] == [1000, 500]


def test_settling_twice_changes_nothing_and_another_way_corrects_the_first(
    light_platform: SmallPlatform,
) -> None:
    with_a_failed_user(light_platform)
    first = light_platform.settle(MARCH, LOST, "written-off")
    assert light_platform.settle(MARCH, LOST, "written-off") == first
    assert light_platform.settle(MARCH, LOST, "billed-by-hand").reason is Reason.BILLED_BY_HAND
    assert [entry["action"] for entry in light_platform.trail(MARCH, LOST)].count("settled") == 2


@pytest.mark.both_databases
def test_a_bill_voided_to_be_billed_again_can_be_settled(billed: SmallPlatform) -> None:
    billed.void(MARCH, ONE)
    assert billed.status(MARCH) == "partial"
    billed.settle(MARCH, ONE)
    assert billed.status(MARCH) == "billed"
    billed.bill(MARCH, verify=True)
    assert [each.total_cents for each in billed.standing()] == [500]
    billed.must_agree(MARCH)


def test_a_parked_bill_whose_invoice_is_void_can_be_settled(billed: SmallPlatform) -> None:
    billed.person_voids(billed.bill_of(MARCH, ONE).stripe_invoice_id)
    billed.bill(MARCH, verify=True)
    assert billed.bill_of(MARCH, ONE).state == "parked"
    billed.settle(MARCH, ONE, "billed-by-hand")
    assert billed.status(MARCH) == "billed"
    billed.bill(MARCH, verify=True)
    assert billed.bill_of(MARCH, ONE).state == "settled"
    billed.must_agree(MARCH)


def test_what_has_an_invoice_or_nothing_due_is_refused_with_the_way_on(billed: SmallPlatform) -> None:
    with pytest.raises(LedgerError, match=r"stands at Stripe.*Void it first: spell-billing void"):
        billed.settle(MARCH, ONE)
    with pytest.raises(LedgerError, match="nothing is open"):
        billed.settle(MARCH, FREE)
    with pytest.raises(LedgerError, match="has no bill for 2025-03"):
        billed.settle(MARCH, "nobody")


def test_a_bill_with_an_invoice_that_stands_is_refused_whatever_the_ledger_says(
    light_platform: SmallPlatform,
) -> None:
    with_a_failed_user(light_platform)
    sent = light_platform.bill_of(MARCH, ONE)
    for state, reason in (("parked", "changed_at_stripe"), ("failed", "no_billing_account")):
        light_platform.sql(
            f"UPDATE ledger_invoices SET state = '{state}', reason = '{reason}' WHERE user_id = '{ONE}'"
        )
        with pytest.raises(LedgerError, match=rf"this stands at Stripe: {sent.stripe_invoice_id} \(open\)"):
            light_platform.settle(MARCH, ONE)
        assert light_platform.bill_of(MARCH, ONE).state == state


def test_a_month_that_can_still_change_is_refused(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE)
    light_platform.calls(MARCH, (ONE, 1000), (LOST, 300))
    light_platform.draft(MARCH)
    with pytest.raises(LedgerError, match=r"Billing of 2025-03 has not started.*Bill it first"):
        light_platform.settle(MARCH, LOST)


def test_an_invoice_that_is_sent_after_all_is_parked_and_named(light_platform: SmallPlatform) -> None:
    with_a_failed_user(light_platform)
    light_platform.void(MARCH, ONE)
    (void,) = [each for each in light_platform.double.invoices() if each.status == "void"]
    light_platform.settle(MARCH, ONE, "billed-by-hand")
    by_hand = light_platform.person_bills(f"cus_{ONE}", 1000, like=void)

    light_platform.bill(MARCH, verify=True)

    parked = light_platform.bill_of(MARCH, ONE)
    assert (parked.state, parked.reason) == (State.PARKED, Reason.CHANGED_AT_STRIPE)
    assert by_hand in str(parked.message)
    assert light_platform.status(MARCH) == "partial"


@pytest.mark.parametrize(("how", "credit_cents"), [("billed-by-hand", 50), ("written-off", 0)])
def test_late_usage_of_a_settled_bill_follows_how_it_was_settled(
    light_platform: SmallPlatform, how: str, credit_cents: int
) -> None:
    with_a_failed_user(light_platform).settle(MARCH, LOST, how)
    light_platform.accounts(LOST)
    light_platform.calls(MARCH, (LOST, -50))
    light_platform.calls(APRIL, (LOST, 80))
    light_platform.bill(APRIL)
    assert light_platform.bill_of(APRIL, LOST).total_cents == 80 - credit_cents
