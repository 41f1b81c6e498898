"""Money that comes back after it was settled as a correction: said, with the command that puts it right."""

from collections.abc import Callable

import pytest

from spell_billing_tests.payments.test_given_back_twice import lose_the_larger_row, say
from spell_billing_tests.payments.test_money_back import credit_note, refund
from spell_billing_tests.payments.world import ONE, World
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY


@pytest.fixture
def billed(small_world: World) -> World:
    """Give a world in which ONE paid $10.00 for March, for rows of $4.00 and $6.00."""
    small_world.platform.calls(MARCH, (ONE, 400))
    small_world.bill(ONE, cents=600)
    small_world.advance()
    small_world.tick()
    return small_world


def corrected(world: World) -> None:
    """Let the row of $6.00 go, settle what went back as its correction, and bill April, $9.00, without it."""
    world.tick()
    lose_the_larger_row(world)
    world.platform.calls(APRIL, (ONE, 900))
    world.platform.bill(APRIL)
    assert say(world, "correction")[1] == 600
    world.platform.bill(APRIL)
    assert world.platform.bill_of(APRIL, ONE).total_cents == 900
    world.platform.must_agree(MARCH)


def win(world: World) -> None:
    world.double.dispute(world.invoice_id(ONE), outcome="won")


def fail(world: World) -> None:
    world.double.fail_refund(world.invoice_id(ONE))


def refund_twice(world: World) -> None:
    for cents in (200, 400):
        refund(world, ONE, cents)


@pytest.mark.parametrize(
    ("gave", "came_back", "title", "still_back"),
    [
        (lambda w: w.double.dispute(w.invoice_id(ONE), outcome="open"), win, "Dispute won", 0),
        (lambda w: w.platform.credit(MARCH, ONE, 600), fail, "Refund of $6.00 failed", 0),
        (refund_twice, fail, "Refund of $4.00 failed", 200),
    ],
    ids=["a dispute is won", "the refund fails", "one of two refunds fails"],
)
def test_the_alert_and_reconcile_name_the_answer_and_the_next_bill_gives_the_rows_back(
    billed: World,
    gave: Callable[[World], object],
    came_back: Callable[[World], None],
    title: str,
    still_back: int,
) -> None:
    answer = "correction" if still_back else "goodwill"
    gave(billed)
    corrected(billed)
    came_back(billed)

    billed.tick()

    text = billed.web.texts[-1]
    assert text.splitlines()[0] == f"{title}: user-0001, 2025-03"
    command = f"`spell-billing settle --month 2025-03 --user user-0001 --given-back {answer}`"
    assert f"$6.00 of it was settled as a correction for rows that went, and ${still_back / 100:.2f}" in text
    assert command in text
    assert billed.platform.findings(MARCH) == [(ONE, "correction_undone")]

    say(billed, answer)
    billed.platform.calls(MAY, (ONE, 700))
    billed.platform.bill(MAY)

    assert billed.platform.bill_of(MAY, ONE).total_cents == 700 - (600 - still_back)
    for month in (MARCH, APRIL, MAY):
        billed.platform.must_agree(month)


@pytest.mark.parametrize("ours", [True, False])
def test_a_credit_note_that_is_voided_after_it_was_settled_is_told(small_world: World, *, ours: bool) -> None:
    world = small_world
    world.platform.calls(MARCH, (ONE, 400))
    world.bill(ONE, cards={ONE: "declined"}, cents=600)
    world.advance()
    world.tick()
    if ours:
        world.platform.credit(MARCH, ONE, 600)
    else:
        credit_note(world, ONE, 600)
    corrected(world)
    world.double.void_credit_note(world.invoice_id(ONE))

    world.tick()
    world.tick()

    (text,) = [each for each in world.web.texts if "voided" in each]
    assert text.splitlines()[0] == "Credit note of $6.00 voided: user-0001, 2025-03"
    assert "`spell-billing settle --month 2025-03 --user user-0001 --given-back goodwill`" in text
    assert world.platform.findings(MARCH) == [(ONE, "correction_undone")]
    say(world, "goodwill")
    world.platform.calls(MAY, (ONE, 700))
    world.platform.bill(MAY)
    assert world.platform.bill_of(MAY, ONE).total_cents == 100
    for month in (MARCH, APRIL, MAY):
        world.platform.must_agree(month)
