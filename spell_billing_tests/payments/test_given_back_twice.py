"""Money that went back at Stripe, and would go back for rows that went: a person says once what was meant."""

from collections.abc import Callable

import pytest

from spell_billing.core.errors import LedgerError
from spell_billing.core.outcomes import Reason, State
from spell_billing.core.terms import Policy
from spell_billing.invoicing.given_back import GivenBackAs, settle_given_back
from spell_billing.invoicing.review import hold, release
from spell_billing.ledger.rows import Actor
from spell_billing_tests.payments.test_money_back import credit_note, refund
from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.proof.small_platform import APRIL, JUNE, MARCH, MAY
from spell_billing_tests.proof.test_people_at_stripe import revise

ANNA = Actor("anna")


@pytest.fixture
def billed(small_world: World) -> World:
    """Give a world in which ONE and TWO were billed $10.00 for March, of which ONE's card pays."""
    world = small_world
    world.platform.calls(MARCH, (ONE, 400), (TWO, 400))
    world.bill(ONE, TWO, cards={TWO: "declined"}, cents=600)
    world.advance()
    world.tick()
    return world


def lose_the_larger_row(world: World, user: str = ONE) -> None:
    world.platform.sql(f"DELETE FROM usage_counters WHERE user_id = '{user}' AND cost_cents = 600")


def say(world: World, how: str, month: object = MARCH, user: str = ONE) -> tuple[int, int, str]:
    with world.ledger() as ledger, ledger.writing() as connection:
        return settle_given_back(
            connection,
            month,  # type: ignore[arg-type]
            user,
            GivenBackAs(how),
            reason="asked",
            actor=ANNA,
        )


def let_go(world: World, user: str = ONE, month: object = APRIL) -> None:
    with world.ledger() as ledger:
        release(ledger, month, ANNA, "both were meant", user)  # type: ignore[arg-type]


def dispute(world: World, user: str) -> None:
    world.double.dispute(world.invoice_id(user), outcome="lost")


WENT_BACK: dict[str, tuple[str, int, Callable[[World, str], object]]] = {
    "a part refunded": (ONE, 500, lambda world, user: refund(world, user, 500)),
    "all refunded": (ONE, 1000, lambda world, user: refund(world, user, 1000)),
    "a note that refunds": (ONE, 500, lambda world, user: credit_note(world, user, 500, refund_amount=500)),
    "a note to the balance": (ONE, 500, lambda world, user: credit_note(world, user, 500, credit_amount=500)),
    "a note of ours": (ONE, 500, lambda world, user: world.platform.credit(MARCH, user, 500)),
    "a dispute that was lost": (ONE, 1000, dispute),
    "a note before the payment": (TWO, 500, lambda world, user: credit_note(world, user, 500)),
    "an edited invoice": (TWO, 500, lambda world, user: revise(world.platform, world.invoice_id(user), -500)),
}


# What is said does not depend on the way: to let go is tried after the payment and before it.
SAID = [
    *((way, "correction") for way in WENT_BACK),
    ("a part refunded", "release"),
    ("an edited invoice", "release"),
]


@pytest.mark.parametrize(("way", "said"), SAID)
def test_whatever_way_money_went_back_the_user_alone_is_held_and_both_answers_end_it(
    billed: World, way: str, said: str
) -> None:
    user, cents, give_back = WENT_BACK[way]
    give_back(billed, user)
    billed.tick()
    lose_the_larger_row(billed, user)
    platform = billed.platform
    platform.calls(APRIL, (ONE, 900), (TWO, 900))
    platform.bill(APRIL)

    held = platform.bill_of(APRIL, user)
    (other,) = {ONE, TWO} - {user}
    assert (held.state, held.reason) == (State.HELD, Reason.ALREADY_GIVEN_BACK)
    assert platform.bill_of(APRIL, other).state in {State.FINALIZED, State.PAID, State.PAYMENT_FAILED}
    if said == "release":
        let_go(billed, user)
    else:
        assert say(billed, said, user=user)[1] == min(cents, 600)
    platform.bill(APRIL)
    platform.calls(MAY, (ONE, 700), (TWO, 700))
    platform.bill(MAY)

    back = 600 if said == "release" else 600 - min(cents, 600)
    assert platform.bill_of(APRIL, user).total_cents == 900 - back
    assert platform.bill_of(MAY, user).total_cents == 700
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


@pytest.mark.both_databases
@pytest.mark.parametrize("said", ["release", "correction"])
def test_a_credit_without_an_invoice_waits_as_well_and_is_handed_on_once(world: World, said: str) -> None:
    world.platform.calls(MARCH, (ONE, 400))
    world.bill(ONE, cents=600)
    world.advance()
    world.tick()
    refund(world, ONE, 600)
    world.tick()
    lose_the_larger_row(world)
    world.platform.bill(APRIL)
    held = world.platform.bill_of(APRIL, ONE)
    assert (held.state, held.total_cents, held.carried_cents) == (State.HELD, -600, 0)

    # A later month neither waits for it nor gives it back.
    world.platform.calls(MAY, (ONE, 700))
    world.platform.bill(MAY)
    assert world.platform.bill_of(MAY, ONE).total_cents == 700
    if said == "release":
        let_go(world)
    else:
        say(world, said)
    world.platform.bill(APRIL)
    world.platform.calls(JUNE, (ONE, 1000))
    world.platform.bill(JUNE)

    april = world.platform.bill_of(APRIL, ONE)
    carried = 600 if said == "release" else 0
    assert (april.state, april.carried_cents) == (State.SKIPPED, carried)
    assert world.platform.bill_of(JUNE, ONE).total_cents == 1000 - carried
    for month in (MARCH, APRIL, MAY, JUNE):
        world.platform.must_agree(month)


def test_money_that_goes_back_after_the_rows_were_corrected_is_told_until_a_person_has_answered(
    billed: World,
) -> None:
    lose_the_larger_row(billed)
    platform = billed.platform
    platform.calls(APRIL, (ONE, 900))
    platform.bill(APRIL)
    assert platform.lines(APRIL, ONE) == [("usage", 900), ("late_usage", -600)]
    refund(billed, ONE, 600)
    billed.tick()

    (alert,) = [text for text in billed.web.texts if "refunded" in text]
    assert "Rows that it had charged $6.00 for were removed as well" in alert
    assert f"`spell-billing settle --month 2025-03 --user {ONE} --given-back goodwill`" in alert
    assert platform.findings(MARCH) == [(ONE, "given_back_twice")]
    say(billed, "goodwill")
    platform.must_agree(MARCH)
    # It was not: another word takes the place of the first, and the next bill charges it.
    assert say(billed, "correction") == (600, 600, "usd")
    for month in (MARCH, APRIL):
        platform.must_agree(month)
    platform.calls(MAY, (ONE, 100))
    platform.bill(MAY)
    assert platform.lines(MAY, ONE) == [("usage", 100), ("adjustment", 600)]
    say(billed, "goodwill")
    platform.calls(JUNE, (ONE, 1000))
    platform.bill(JUNE)
    assert platform.lines(JUNE, ONE) == [("usage", 1000), ("adjustment", -600)]
    for month in (MARCH, APRIL, MAY, JUNE):
        platform.must_agree(month)


def test_a_bill_that_was_drafted_before_the_money_went_back_is_asked_about_before_it_is_sent(
    billed: World,
) -> None:
    lose_the_larger_row(billed)
    platform = billed.platform
    platform.calls(APRIL, (ONE, 900), (TWO, 900))
    platform.draft(APRIL)
    with billed.ledger() as ledger:
        hold(ledger, APRIL, ANNA, "let me look", ONE)
    platform.send(APRIL)
    refund(billed, ONE, 600)
    billed.tick()
    let_go(billed)

    platform.bill(APRIL)

    assert platform.bill_of(APRIL, ONE).reason is Reason.ALREADY_GIVEN_BACK
    # More goes back: the person has not seen it.
    refund(billed, ONE, 100)
    billed.tick()
    with pytest.raises(LedgerError, match="is no longer what the bill for 2025-04 says"):
        let_go(billed)
    platform.bill(APRIL)
    assert "$7.00 of the invoice of 2025-03" in str(platform.bill_of(APRIL, ONE).message)
    let_go(billed)
    platform.bill(APRIL)
    assert platform.bill_of(APRIL, ONE).total_cents == 300
    # Then still more, for other rows that go: that is another question.
    refund(billed, ONE, 200)
    billed.tick()
    platform.sql(
        "UPDATE usage_counters SET cost_cents = 200 WHERE user_id = 'user-0001' AND cost_cents = 400"
    )
    platform.calls(MAY, (ONE, 500))
    platform.bill(MAY)
    assert "$2.00 of the invoice of 2025-03" in str(platform.bill_of(MAY, ONE).message)
    assert say(billed, "correction")[1] == 200
    platform.bill(MAY)
    assert platform.bill_of(MAY, ONE).total_cents == 500
    for month in (MARCH, APRIL, MAY):
        platform.must_agree(month)


def test_what_goes_back_of_an_invoice_that_charged_late_usage_is_about_that_usage_too(billed: World) -> None:
    platform = billed.platform
    platform.calls(MARCH, (ONE, 300))
    platform.calls(APRIL, (ONE, 900))
    platform.bill(APRIL)
    billed.advance()
    billed.tick()
    april = str(platform.bill_of(APRIL, ONE).stripe_invoice_id)
    platform.person("POST", "/v1/credit_notes", {"invoice": april, "amount": 300, "refund_amount": 300})
    billed.tick()
    platform.sql("DELETE FROM usage_counters WHERE cost_cents = 300")
    platform.calls(MAY, (ONE, 700))
    platform.bill(MAY)

    assert platform.bill_of(MAY, ONE).reason is Reason.ALREADY_GIVEN_BACK
    assert say(billed, "correction", APRIL)[1] == 300
    platform.bill(MAY)

    assert platform.bill_of(MAY, ONE).total_cents == 700
    # Rows that come back are charged again.
    platform.calls(MARCH, (ONE, 300))
    platform.calls(JUNE, (ONE, 100))
    platform.bill(JUNE)
    assert platform.bill_of(JUNE, ONE).total_cents == 400
    for month in (MARCH, APRIL, MAY, JUNE):
        platform.must_agree(month)


def test_nothing_is_asked_where_rows_came_or_nothing_went_back(billed: World) -> None:
    refund(billed, ONE, 500)
    billed.tick()
    platform = billed.platform
    platform.calls(MARCH, (ONE, 50))
    lose_the_larger_row(billed, TWO)
    platform.calls(APRIL, (ONE, 900), (TWO, 900))
    platform.bill(APRIL)

    assert platform.bill_of(APRIL, ONE).total_cents == 950
    assert platform.bill_of(APRIL, TWO).total_cents == 300
    with pytest.raises(LedgerError, match="nothing was given back"):
        say(billed, "correction", user=TWO)
    with pytest.raises(LedgerError, match="no row that was removed"):
        say(billed, "correction")


def test_a_refund_of_what_a_coupon_left_to_pay_corrects_the_rows_that_it_was_for(small_world: World) -> None:
    world, platform = small_world, small_world.platform
    platform.policy = Policy(discounts=True)
    platform.accounts(ONE)
    world.double.add_customer(f"cus_{ONE}", metadata={"double_coupon": "50"})
    platform.calls(MARCH, (ONE, 400), (ONE, 600))
    platform.bill(MARCH)
    world.advance()
    world.tick()
    refund(world, ONE, 300)
    world.tick()
    lose_the_larger_row(world)
    world.double.add_customer(f"cus_{ONE}")
    platform.calls(APRIL, (ONE, 900))
    platform.bill(APRIL)
    assert platform.bill_of(APRIL, ONE).reason is Reason.ALREADY_GIVEN_BACK

    say(world, "correction")
    platform.bill(APRIL)

    assert platform.bill_of(APRIL, ONE).total_cents == 900, "400 at half the price were paid for March"
    platform.must_agree(APRIL)
