"""A billing run and payments at the same time: neither is lost, and no run dies of a payment."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import pytest

from spell_billing.core.errors import LedgerLostError, MonthLockedError
from spell_billing.core.outcomes import Reason, State
from spell_billing.ledger.rows import Actor, Bill, Change
from spell_billing.ledger.session import MonthSession
from spell_billing.payments.handler import handle_batch, receive
from spell_billing.stripe_double.payment import advance as collect_due
from spell_billing.stripe_double.payment import pay_out_of_band
from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH

_RUN = Actor("tester", "run-2")


def while_held(world: World, act: Callable[[MonthSession], Any]) -> Any:
    with world.ledger() as ledger, ledger.session(MARCH, _RUN, wait_seconds=0) as session:
        return act(session)


def test_a_payment_does_not_wait_for_the_month(world: World) -> None:
    world.bill(ONE)
    world.advance()

    def hold(_: MonthSession) -> None:
        world.tick()
        assert world.state(ONE) == "paid"

    while_held(world, hold)


def test_a_void_waits_for_the_month_and_is_not_lost(world: World) -> None:
    world.bill(ONE, TWO)
    world.platform.person_voids(world.invoice_id(ONE))
    world.advance()

    def hold(_: MonthSession) -> None:
        for _turn in range(2):
            assert world.tick().voids_deferred == 1
        assert (world.state(ONE), world.state(TWO)) == ("finalized", "paid")

    while_held(world, hold)
    assert world.tick().bills_parked == 1
    assert (world.state(ONE), world.bill_of(ONE).reason) == ("parked", Reason.VOIDED_AT_STRIPE)


def test_news_of_a_bill_that_is_still_drafted_takes_effect_when_it_is_finalized(world: World) -> None:
    world.bill(ONE, TWO, cards={TWO: "declined"})
    as_they_were = {user: world.bill_of(user) for user in (ONE, TWO)}
    world.platform.sql("UPDATE ledger_invoices SET state = 'drafted', finalized_at = NULL")
    world.advance()
    world.tick()
    assert [world.state(user) for user in (ONE, TWO)] == ["drafted", "drafted"]
    assert world.web.texts == []

    def finalize(session: MonthSession) -> None:
        bills = [world.bill_of(user) for user in (ONE, TWO)]
        session.apply([Change(bill, as_they_were[bill.user_id], "finalized") for bill in bills])

    while_held(world, finalize)
    world.tick()
    assert [world.state(user) for user in (ONE, TWO)] == ["paid", "payment_failed"]
    assert len(world.web.texts) == 1


def hear_paid(world: World) -> None:
    """Let the payment come in by another connection, as the webhook's would."""
    with world.ledger() as other:
        other.write(receive, world.events(), "webhook")
        handle_batch(other, 500)
    assert world.state(ONE) == "paid"


def test_a_change_that_keeps_the_state_keeps_the_payment_s(world: World) -> None:
    world.bill(ONE)
    bill = world.bill_of(ONE)
    world.advance()

    def change(session: MonthSession) -> Bill:
        hear_paid(world)
        return session.apply([Change(bill, bill, "void_requested", "why")])[0]

    assert while_held(world, change).state is State.PAID
    last = world.platform.trail(MARCH, ONE)[-1]
    assert (last["action"], last["from_state"], last["to_state"]) == ("void_requested", "paid", "paid")


def test_a_change_that_parks_a_bill_holds_wherever_a_payment_moved_it(world: World) -> None:
    world.bill(ONE)
    bill = world.bill_of(ONE)
    world.advance()

    def park(session: MonthSession) -> None:
        hear_paid(world)
        parked = replace(bill, state=State.PARKED, reason=Reason.TWO_INVOICES)
        session.apply([Change(bill, parked, "parked")])

    while_held(world, park)
    last = world.platform.trail(MARCH, ONE)[-1]
    assert (last["from_state"], last["to_state"]) == ("paid", "parked")
    assert world.state(ONE) == "parked"


def test_a_change_between_payment_states_from_an_old_one_is_refused(world: World) -> None:
    world.bill(ONE)
    bill = world.bill_of(ONE)
    world.advance()

    def change(session: MonthSession) -> None:
        hear_paid(world)
        with pytest.raises(LedgerLostError):
            session.apply([Change(bill, replace(bill, state=State.UNCOLLECTIBLE), "finalized")])

    while_held(world, change)
    assert world.state(ONE) == "paid"


def test_a_sweep_under_way_takes_no_paid_bill_back(world: World) -> None:
    world.bill(ONE, TWO)
    world.platform.person("POST", f"/v1/invoices/{world.invoice_id(ONE)}/mark_uncollectible")

    def pay(_: object) -> None:
        # Stripe's answer to the sweep's list stands by now, and the run has not read it.
        account = world.double.state
        pay_out_of_band(account, account.invoices.get(world.invoice_id(ONE)))
        hear_paid(world)

    world.double.arm("none", operation="invoices.list", after_effect=pay)
    world.platform.bill(MARCH, verify=True)
    assert world.state(ONE) == "paid"
    assert world.followed(ONE) == [("webhook", "finalized", "paid")]


def test_the_sweep_follows_payments_too(world: World) -> None:
    world.bill(ONE, TWO, cards={ONE: "declined"})
    world.advance()
    world.platform.bill(MARCH, verify=True)
    assert (world.state(ONE), world.state(TWO)) == ("payment_failed", "paid")
    assert world.followed(TWO) == [("tester", "finalized", "paid")]
    world.tick()
    assert len(world.followed(TWO)) == 1
    assert len(world.web.texts) == 1


def test_a_void_of_ours_holds_although_a_failure_comes_in_meanwhile(world: World) -> None:
    world.bill(ONE, cards={ONE: "declined"})
    world.advance()
    failed = world.events()

    def hear(_: object) -> None:
        with world.ledger() as other:
            other.write(receive, failed, "webhook")
            handle_batch(other, 500)

    world.double.arm("none", operation="invoices.void", before_effect=hear)
    world.platform.void(MARCH, ONE)
    assert (world.state(ONE), world.bill_of(ONE).reason) == ("void", Reason.VOIDED)
    world.tick()
    assert world.state(ONE) == "void"


def test_a_second_tick_at_the_same_time_does_nothing(world: World) -> None:
    world.bill(ONE)
    with (
        world.ledger() as ledger,
        ledger.exclusive("payments", wait_seconds=0),
        pytest.raises(MonthLockedError),
    ):
        world.tick()


@pytest.mark.both_databases
def test_a_run_and_ticks_at_the_same_time_lose_nothing(world: World) -> None:
    users = [f"user-{number:04}" for number in range(1, 41)]
    world.platform.accounts(*users)
    for number, user in enumerate(users):
        world.card(user, "declined" if number % 4 == 0 else "ok")
    world.platform.calls(MARCH, *((user, 1000) for user in users))
    # Stripe collects as soon as an invoice is finalized: before the run has heard that it is.
    world.double.arm(
        "none",
        operation="invoices.finalize",
        probability=1.0,
        after_effect=lambda _: collect_due(world.double.state),
    )
    ended = Event()

    def tick() -> int:
        ticks = 0
        while not ended.is_set():
            world.tick()
            ticks += 1
        return ticks

    with ThreadPoolExecutor(1) as pool:
        ticking = pool.submit(tick)
        try:
            world.platform.bill(MARCH)
            world.platform.bill(MARCH, verify=True)
        finally:
            ended.set()
        assert ticking.result() > 0
    world.tick()

    states = [world.state(user) for user in users]
    assert (states.count("paid"), states.count("payment_failed")) == (30, 10)
    assert all(len(world.followed(user)) == 1 for user in users)
    told = [line for text in world.web.texts for line in text.splitlines()[:1]]
    assert sum(int(line.split()[0]) if line[0].isdigit() else 1 for line in told) == 10
    world.platform.must_agree(MARCH)
