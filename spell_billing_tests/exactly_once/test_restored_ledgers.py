"""A ledger restored from before the run, from the middle of it, or empty, against an account that went on."""

from itertools import count

import pytest

from spell_billing_tests.exactly_once.ledgers import image_of, put_back
from spell_billing_tests.exactly_once.small_month import BILLABLE, WRITES, drafts
from spell_billing_tests.exactly_once.world import World

EXPIRED = pytest.mark.parametrize("expired", [False, True], ids=["keys_kept", "keys_expired"])


def disturb(world: World, write: int) -> None:
    """Let a run get as far as a write; at the write after the last it ends by itself."""
    world.bill_killed_at_write(write, after_effect=True)


def expire(world: World, *, expired: bool) -> None:
    if expired:
        world.double.expire_all_keys()


@EXPIRED
def test_a_ledger_from_before_the_run_finds_what_was_billed(world: World, *, expired: bool) -> None:
    for write in range(1, WRITES + 2):
        with world.point(f"write {write}, then yesterday's ledger"):
            world.start_over()
            disturb(world, write)
            put_back(world.database_url, world.drafted)
            expire(world, expired=expired)
            world.one_more_run_must_finish()


@EXPIRED
def test_a_ledger_from_any_commit_of_a_finished_run_finds_what_was_billed(
    world: World, *, expired: bool
) -> None:
    for number in count(1):
        with world.point(f"the ledger of commit {number} after the whole run"):
            world.start_over()
            if not world.bill_killed_at_commit(number, after_commit=True):
                break
            middle = image_of(world.database_url)
            world.bill()
            put_back(world.database_url, middle)
            expire(world, expired=expired)
            world.one_more_run_must_finish()
    assert number > len(world.drafts)


@EXPIRED
def test_a_ledger_from_any_commit_of_a_broken_run_finds_what_was_billed(
    sqlite_world: World, *, expired: bool
) -> None:
    world = sqlite_world
    for number in count(1, 2):
        with world.point(f"the ledger of commit {number} after a second run that was killed too"):
            world.start_over()
            if not world.bill_killed_at_commit(number, after_commit=True):
                break
            middle = image_of(world.database_url)
            disturb(world, 1 + number % WRITES)
            put_back(world.database_url, middle)
            expire(world, expired=expired)
            world.one_more_run_must_finish()


@EXPIRED
@pytest.mark.parametrize("late_cents", [0, 150], ids=["same_usage", "late_usage"])
def test_an_empty_ledger_finds_what_was_billed(world: World, *, expired: bool, late_cents: int) -> None:
    for write in range(1, WRITES + 2):
        with world.point(f"write {write}, then an empty ledger"):
            world.drafts = drafts()
            world.start_over()
            disturb(world, write)
            world.lose_the_ledger(drafts(more_cents=late_cents))
            expire(world, expired=expired)
            world.one_more_run_must_finish()


def test_late_usage_after_a_lost_ledger_is_owed_to_a_later_invoice(world: World) -> None:
    world.bill()
    before = {each.id: each for each in world.double.invoices()}
    world.lose_the_ledger(drafts(more_cents=150))
    world.one_more_run_must_finish()
    assert {each.id: each for each in world.double.invoices()} == before
    assert [world.bill_of(user_id).unbilled_usage_cents for user_id in BILLABLE] == [150, 150, 150]


def test_a_restored_ledger_makes_no_invoice_beside_those_it_finds(sqlite_world: World) -> None:
    world = sqlite_world
    world.notices = True
    for write in range(1, WRITES + 2):
        with world.point(f"write {write}, then yesterday's ledger"):
            world.start_over()
            disturb(world, write)
            world.wait_for_stripe()
            before = world.double.invoices()
            put_back(world.database_url, world.drafted)

            world.bill()

            # A draft that was begun is completed: a bill that a person settled has none.
            if any(each.status != "draft" for each in before):
                assert {each.id for each in world.double.invoices()} == {each.id for each in before}
            else:
                world.must_be_finished()
