"""kill -9 of the process group before and after the effect of every write to Stripe."""

import pytest

from spell_billing_tests.exactly_once.small_month import WRITES
from spell_billing_tests.exactly_once.world import World

BEYOND_A_MONTH = range(1, WRITES + 2)


def test_an_undisturbed_month_takes_three_writes_a_user(world: World) -> None:
    world.bill()
    assert len(world.double.writes) - 1 == WRITES
    world.must_be_finished()


@pytest.mark.parametrize("after_effect", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("expired", [False, True], ids=["keys_kept", "keys_expired"])
def test_a_run_killed_at_any_write_is_completed_by_the_next(
    world: World, *, after_effect: bool, expired: bool
) -> None:
    # A crash is not taken for a ledger that was restored: nothing is held.
    world.notices = True
    for number in BEYOND_A_MONTH:
        with world.point(f"write {number}"):
            world.start_over()
            killed = world.bill_killed_at_write(number, after_effect=after_effect)
            assert killed == (number <= WRITES)
            if expired:
                world.double.expire_all_keys()
            world.one_more_run_must_finish()
