"""Our own dunning: off by default, once per step, and never a charge that nobody asked for."""

from contextlib import suppress
from datetime import timedelta

import pytest

from spell_billing.core.errors import SettingsError, SpellBillingError
from spell_billing.ledger.unpaid import Step, steps_of
from spell_billing.settings.billing import Settings
from spell_billing_tests.payments.test_crashes import DyingLedger, Killed
from spell_billing_tests.payments.world import ONE, TWO, World

_PAY = "invoices.pay"


def steps(world: World, user: str) -> list[tuple[int, str]]:
    with world.ledger() as ledger, ledger.reading() as connection:
        found: list[Step] = steps_of(connection, [world.invoice_id(user)])
    return [(step.step, step.outcome) for step in found]


def failed(world: World, *users: str, card: str = "declined") -> None:
    """Bill users whose first payment fails, an hour before the day on which dunning starts."""
    world.bill(*users, cards=dict.fromkeys(users, card))
    world.advance()
    world.tick()


def test_it_is_off_by_default(world: World) -> None:
    failed(world, ONE)
    for _ in range(3):
        world.clock.shift(timedelta(days=3))
        world.tick()
    assert world.requests(_PAY) == 0


def test_each_step_is_asked_once_and_its_outcome_kept(world: World) -> None:
    failed(world, ONE, TWO)
    world.tick(3, 5)
    assert world.requests(_PAY) == 0
    world.clock.shift(timedelta(days=3, hours=1))
    for _ in range(2):
        assert world.tick(3, 5).in_words
    assert steps(world, ONE) == steps(world, TWO) == [(3, "declined: generic_decline")]
    world.card(ONE, "ok")
    world.clock.shift(timedelta(days=2))
    for _ in range(2):
        world.tick(3, 5)
    assert steps(world, ONE) == [(3, "declined: generic_decline"), (5, "paid")]
    assert (world.state(ONE), world.state(TWO)) == ("paid", "payment_failed")
    assert world.requests(_PAY) == 4
    keys = [each.idempotency_key for each in world.double.requests if each.operation == _PAY]
    assert keys[0] in {f"spell:dunning:{world.invoice_id(user)}:d3" for user in (ONE, TWO)}
    # A decline that our own asking brought is no further attempt of Stripe's: people know of the first.
    assert len(world.web.texts) == 2


@pytest.mark.parametrize("what", ["pay", "void", "mark_uncollectible"])
def test_what_is_not_open_is_not_asked_for(world: World, what: str) -> None:
    failed(world, ONE)
    world.clock.shift(timedelta(days=3, hours=1))
    world.card(ONE, "ok")
    world.double.arm("error_500_before", operation="events.list", times=1000)
    with pytest.raises(SpellBillingError):
        world.tick()
    world.double.disarm()
    world.platform.person("POST", f"/v1/invoices/{world.invoice_id(ONE)}/{what}")
    for event in world.double.events()[-2:]:
        # The ledger does not hear of it before it asks.
        world.double.state.events.remove(event.id)
    asked = world.requests(_PAY)
    world.tick(3)
    assert (world.requests(_PAY), steps(world, ONE)) == (asked, [])
    assert world.state(ONE) != "payment_failed"


def test_after_downtime_only_the_latest_step_is_asked(world: World) -> None:
    failed(world, ONE)
    world.clock.shift(timedelta(days=8))
    world.tick(3, 5, 7)
    world.tick(3, 5, 7)
    assert steps(world, ONE) == [(7, "declined: generic_decline")]


def test_switched_on_late_it_leaves_old_invoices_alone(world: World) -> None:
    failed(world, ONE)
    world.clock.shift(timedelta(days=60))
    world.tick(3, 5, 7)
    assert world.requests(_PAY) == 0


@pytest.mark.parametrize("kind", ["lost_after", "error_500_after", "truncated", "lost_before"])
def test_an_answer_that_is_lost_is_found_out_and_nothing_is_charged_twice(world: World, kind: str) -> None:
    failed(world, ONE)
    world.platform.tries = 1
    world.card(ONE, "ok")
    world.clock.shift(timedelta(days=3, hours=1))
    for nth in (1, 2, 3):
        world.double.arm(kind, operation=_PAY, nth=nth)
    try:
        world.tick(3)
    except SpellBillingError:
        assert steps(world, ONE) == [(3, "asked")]
    world.double.disarm()
    world.tick(3)
    assert steps(world, ONE) == [(3, "paid")]
    assert world.state(ONE) == "paid"
    paid = [each for each in world.double.state.charges if each.failure_code is None]
    assert len(paid) == 1


@pytest.mark.parametrize("committed", [False, True], ids=["before_commit", "after_commit"])
@pytest.mark.parametrize("dies_at", range(1, 10))
def test_killed_in_between_it_asks_stripe_once(small_world: World, dies_at: int, *, committed: bool) -> None:
    failed(small_world, ONE)
    small_world.clock.shift(timedelta(days=3, hours=1))
    url = small_world.platform.url
    with suppress(Killed), DyingLedger(url, dies_at=dies_at, committed=committed) as ledger:
        small_world.tick(3, ledger=ledger)
    small_world.tick(3)
    small_world.tick(3)
    assert steps(small_world, ONE) == [(3, "declined: generic_decline")]
    # One by Stripe itself, one that we asked for: a repeated request gets the first one's answer.
    assert len(list(small_world.double.state.charges)) == 2


@pytest.mark.both_databases
def test_a_step_whose_key_has_expired_is_not_asked_again(world: World) -> None:
    failed(world, ONE)
    world.platform.tries = 1
    world.clock.shift(timedelta(days=3, hours=1))
    for nth in (1, 2, 3):
        world.double.arm("lost_after", operation=_PAY, nth=nth)
    with pytest.raises(SpellBillingError):
        world.tick(3)
    world.double.disarm()
    asked = world.requests(_PAY)
    world.clock.shift(timedelta(days=1))
    world.tick(3)
    assert (steps(world, ONE), world.requests(_PAY)) == ([(3, "unknown")], asked)


@pytest.mark.parametrize("text", ["0", "3,3", "5,3", "3;5", "3,,5", "three", "-1", "61", "3,5,", "٣"])
def test_a_malformed_setting_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"DUNNING_DAYS.*is not a list of days"):
        _ = Settings({"DUNNING_DAYS": text}).dunning_days


def test_the_setting_is_read() -> None:
    assert Settings({}).dunning_days == ()
    assert Settings({"DUNNING_DAYS": " 3, 5,7 "}).dunning_days == (3, 5, 7)


def test_an_invoice_whose_key_somebody_else_used_does_not_stop_those_behind_it(world: World) -> None:
    failed(world, ONE, TWO)
    world.clock.shift(timedelta(days=3, hours=1))
    first = min(ONE, TWO, key=world.invoice_id)
    key = f"spell:dunning:{world.invoice_id(first)}:d3"
    world.platform.person("POST", "/v1/customers", {"description": "another request"}, idempotency_key=key)
    world.tick(3)
    world.tick(3)
    outcomes = {user: [outcome for _, outcome in steps(world, user)] for user in (ONE, TWO)}
    assert outcomes.pop(first) == ["unknown"]
    assert list(outcomes.values()) == [["declined: generic_decline"]]


def test_an_invoice_that_stripe_never_answers_for_does_not_stop_those_behind_it(world: World) -> None:
    failed(world, ONE, TWO)
    world.platform.tries = 1
    world.clock.shift(timedelta(days=3, hours=1))
    world.double.arm("lost_before", operation=_PAY, nth=1)
    with pytest.raises(SpellBillingError):
        world.tick(3)
    world.double.disarm()
    assert sorted(outcome for user in (ONE, TWO) for _, outcome in steps(world, user)) == [
        "asked",
        "declined: generic_decline",
    ]
