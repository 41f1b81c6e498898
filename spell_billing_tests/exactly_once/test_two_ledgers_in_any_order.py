"""Two ledgers that bill one month at one Stripe account at once, their requests interleaved at random."""

from collections.abc import Callable

import pytest

from spell_billing.core.outcomes import Reason
from spell_billing_tests.exactly_once.invariants import check_stripe
from spell_billing_tests.exactly_once.small_month import BILLABLE, drafts
from spell_billing_tests.exactly_once.turns import bill_in_turns
from spell_billing_tests.exactly_once.world import World

Twins = Callable[[str], tuple[World, World]]


@pytest.mark.parametrize("kind", ["none", "error_500_before", "error_500_after", "lost_after"])
def test_in_any_order_of_requests_each_user_is_billed_once(twins: Twins, kind: str) -> None:
    one, other = twins("sqlite")
    for seed in range(15):
        with one.point(f"seed {seed}"):
            one.start_over()
            other.start_over()
            one.double.arm(kind, probability=0.25, seed=seed)
            bill_in_turns(seed, one.run(), other.run())
            one.double.disarm()
            check_stripe(one.double)
            one.one_more_run_must_finish()
            other.one_more_run_must_finish()


def test_failures_that_stripe_has_stored_do_not_lead_two_ledgers_apart(twins: Twins) -> None:
    one, other = twins("sqlite")
    for seed in range(40):
        with one.point(f"seed {seed}"):
            one.start_over()
            other.start_over()
            one.double.arm("error_500_before", operation="invoices.create", probability=0.4, seed=seed)
            one.double.arm("error_500_before", operation="invoices.add_lines", probability=0.1, seed=seed)
            bill_in_turns(seed, one.run(), other.run())
            one.double.disarm()
            standing = check_stripe(one.double)
            totals = {draft.user_id: draft.total_cents for draft in one.drafts}
            for user_id, invoice in standing.items():
                assert invoice.total_cents == totals[user_id], "lines were added twice"
            one.one_more_run_must_finish()
            other.one_more_run_must_finish()


@pytest.mark.parametrize("expired", [False, True], ids=["keys_kept", "keys_expired"])
def test_a_ledger_restored_from_before_a_failure_bills_beside_the_one_that_went_on(
    twins: Twins, *, expired: bool
) -> None:
    one, other = twins("sqlite")
    for seed in range(20):
        with one.point(f"seed {seed}"):
            one.start_over()
            other.start_over()
            one.double.arm("error_500_before", operation="invoices.create", probability=1.0)
            assert len(one.bill().unfinished) == len(BILLABLE)
            one.double.disarm()
            if expired:
                one.double.expire_all_keys()
            bill_in_turns(seed, one.run(), other.run())
            check_stripe(one.double)
            one.one_more_run_must_finish()
            other.one_more_run_must_finish()


def test_two_ledgers_with_different_usage_bill_each_user_once(twins: Twins) -> None:
    one, other = twins("sqlite")
    for seed in range(20):
        with one.point(f"seed {seed}"):
            one.start_over()
            other.lose_the_ledger(drafts(more_cents=50))
            bill_in_turns(seed, one.run(), other.run())
            check_stripe(one.double)
            for _ in range(2):
                one.bill()
                other.bill()
                check_stripe(one.double)
            assert len(check_stripe(one.double)) + len(parked_by_both(one, other)) == len(BILLABLE)


def parked_by_both(*worlds: World) -> set[str]:
    """Give the users whose drafts the two ledgers have taken from each other: a person must look."""
    return {
        user_id
        for user_id in BILLABLE
        if all(world.bill_of(user_id).reason is Reason.DELETED_AT_STRIPE for world in worlds)
    }
