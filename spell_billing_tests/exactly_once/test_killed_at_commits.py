"""kill -9 before and after every commit of the ledger, and twice in a row."""

from itertools import count

import pytest

from spell_billing_tests.exactly_once.small_month import WRITES
from spell_billing_tests.exactly_once.world import World


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("expired", [False, True], ids=["keys_kept", "keys_expired"])
def test_a_run_killed_at_any_commit_is_completed_by_the_next(
    world: World, *, after_commit: bool, expired: bool
) -> None:
    # A crash is not taken for a ledger that was restored: nothing is held.
    world.notices = True
    for number in count(1):
        with world.point(f"commit {number}"):
            world.start_over()
            if not world.bill_killed_at_commit(number, after_commit=after_commit):
                break
            if expired:
                world.double.expire_all_keys()
            world.one_more_run_must_finish()
    assert number > len(world.drafts), "fewer commits than steps: group commit hides crash points"


@pytest.mark.parametrize("first_after", [False, True], ids=["before", "after"])
def test_a_recovery_that_is_killed_too_is_completed_by_the_next(
    sqlite_world: World, *, first_after: bool
) -> None:
    world = sqlite_world
    world.notices = True
    for first in range(1, WRITES + 1, 2):
        for second in range(1, WRITES + 1, 2):
            with world.point(f"write {first}, then write {second}"):
                world.start_over()
                world.bill_killed_at_write(first, after_effect=first_after)
                world.bill_killed_at_write(second, after_effect=not first_after)
                world.one_more_run_must_finish()
