"""A person voids or deletes an invoice at Stripe: parked and named, never billed again by itself."""

import pytest

from spell_billing.core.outcomes import Reason, State
from spell_billing_tests.exactly_once.small_month import (
    BILLABLE,
    FOREIGN,
    PLAIN,
    PLAN,
    WRITES,
    ask_stripe,
    drafts,
)
from spell_billing_tests.exactly_once.world import World


def void_an_open_invoice(world: World) -> str | None:
    """Void the first open invoice; give whose it was."""
    world.wait_for_stripe()
    for invoice in world.double.invoices():
        if invoice.status == "open":
            ask_stripe(world.double, "POST", f"/v1/invoices/{invoice.id}/void")
            return invoice.metadata["spell_user_id"]
    return None


def delete_a_draft(world: World) -> tuple[str, str] | None:
    """Delete the first draft; give whose it was, and its id."""
    world.wait_for_stripe()
    for invoice in world.double.invoices():
        if invoice.status == "draft":
            ask_stripe(world.double, "DELETE", f"/v1/invoices/{invoice.id}")
            return invoice.metadata["spell_user_id"], invoice.id
    return None


def must_stay_parked(world: World, user_id: str, reason: Reason) -> None:
    """Run again and again: the user is named with the reason, and nobody else is touched."""
    for _ in range(2):
        world.one_more_run_must_finish(parked={user_id})
        bill = world.bill_of(user_id)
        assert (bill.state, bill.reason) == (State.PARKED, reason)
        assert bill.why
        assert "by hand" in bill.why


@pytest.mark.parametrize("expired", [False, True], ids=["keys_kept", "keys_expired"])
def test_a_voided_invoice_is_parked_by_the_next_run_that_has_work(world: World, *, expired: bool) -> None:
    parked = 0
    for write in range(1, WRITES + 1):
        with world.point(f"write {write}"):
            world.start_over()
            world.bill_killed_at_write(write, after_effect=True)
            user_id = void_an_open_invoice(world)
            if expired:
                world.double.expire_all_keys()
            if user_id is None:
                world.one_more_run_must_finish()
            else:
                must_stay_parked(world, user_id, Reason.VOIDED_AT_STRIPE)
                parked += 1
    assert parked


@pytest.mark.parametrize("user_id", [PLAN, FOREIGN])
def test_an_invoice_voided_after_the_month_was_billed_is_parked_by_a_verifying_run(
    world: World, user_id: str
) -> None:
    world.bill()
    invoice_id = world.bill_of(user_id).stripe_invoice_id
    ask_stripe(world.double, "POST", f"/v1/invoices/{invoice_id}/void")
    assert world.bill(verify=True).sweep.parked == 1
    must_stay_parked(world, user_id, Reason.VOIDED_AT_STRIPE)
    assert world.bill_of(user_id).stripe_invoice_id == invoice_id


@pytest.mark.parametrize("late_cents", [0, 150], ids=["same_usage", "late_usage"])
def test_a_voided_invoice_is_not_billed_again_by_a_ledger_that_never_knew_it(
    world: World, late_cents: int
) -> None:
    world.bill()
    user_id = void_an_open_invoice(world)
    assert user_id is not None
    world.lose_the_ledger(drafts(more_cents=late_cents))
    world.double.expire_all_keys()
    must_stay_parked(world, user_id, Reason.VOIDED_AT_STRIPE)


@pytest.mark.parametrize("expired", [False, True], ids=["keys_kept", "keys_expired"])
def test_a_deleted_draft_that_the_ledger_knew_is_parked(world: World, *, expired: bool) -> None:
    parked = 0
    for write in range(1, WRITES + 1):
        with world.point(f"write {write}"):
            world.start_over()
            world.bill_killed_at_write(write, after_effect=True)
            deleted = delete_a_draft(world)
            if expired:
                world.double.expire_all_keys()
            if deleted is not None and world.bill_of(deleted[0]).stripe_invoice_id == deleted[1]:
                must_stay_parked(world, deleted[0], Reason.DELETED_AT_STRIPE)
                parked += 1
            else:
                world.one_more_run_must_finish()
    assert parked


def test_a_paid_invoice_stays_as_it_is(world: World) -> None:
    world.bill()
    world.bill(verify=True)
    assert world.bill_of(PLAIN).state is State.PAID
    assert {world.bill_of(user_id).state for user_id in BILLABLE} == {State.PAID, State.PAYMENT_FAILED}
