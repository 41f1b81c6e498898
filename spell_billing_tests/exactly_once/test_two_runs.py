"""Two runs of the month at once, from two processes: on one ledger, and on two with the same account."""

import os
import signal
import socket
from collections.abc import Callable
from threading import Event

import pytest

from spell_billing.core.errors import MonthLockedError
from spell_billing_tests.exactly_once.small_month import WRITES
from spell_billing_tests.exactly_once.world import KILLED, World

NEVER_SECONDS = 300.0


def stuck_run(world: World, write: int) -> int:
    """Start a run in a child that gets no answer to one of its writes; return when it has got there."""
    arrived = Event()
    world.double.arm("timeout", nth=write, before_effect=lambda _record: arrived.set())
    pid = world.children.start(world.run(timeout_seconds=NEVER_SECONDS))
    assert arrived.wait(30)
    return pid


def end(world: World, pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)
    assert world.children.wait(pid)["status"] == KILLED


def test_a_second_run_is_refused_with_the_name_of_the_first(world: World) -> None:
    first = stuck_run(world, write=4)
    with pytest.raises(MonthLockedError, match=f"process {first} on {socket.gethostname()}"):
        world.bill(wait_seconds=0)
    end(world, first)
    world.one_more_run_must_finish()


@pytest.mark.parametrize("write", range(1, WRITES + 1))
def test_a_second_run_waits_and_takes_over_when_the_first_dies(world: World, write: int) -> None:
    first = stuck_run(world, write)
    second = world.children.start(world.run())
    third = world.bill_in_child(wait_seconds=0)
    assert f"process {first} on {socket.gethostname()}" in third["error"]
    # Each run begins with a list.
    assert world.double.summary()["by_operation"]["invoices.list"] == 1, "somebody ran without the lock"
    end(world, first)
    ended = world.children.wait(second)
    assert (ended["status"], ended["error"], ended["unfinished"]) == (0, None, {})
    world.must_be_finished()


def test_two_runs_of_one_ledger_started_together_bill_once(world: World) -> None:
    for seed in range(6):
        with world.point(f"seed {seed}"):
            world.start_over()
            world.double.arm("slow", probability=0.5, seed=seed, seconds=0.01)
            both = [world.children.start(world.run()) for _ in range(2)]
            for ended in map(world.children.wait, both):
                assert (ended["status"], ended["error"], ended["unfinished"]) == (0, None, {})
            assert len(world.double.writes) - 1 == WRITES
            world.must_be_finished()


@pytest.mark.parametrize("kind", ["sqlite", "sqlite_and_postgresql"])
def test_two_ledgers_with_one_account_bill_once(
    twins: Callable[[str], tuple[World, World]], kind: str
) -> None:
    one, other = twins(kind)
    for seed in range(10):
        with one.point(f"seed {seed}"):
            one.start_over()
            other.start_over()
            one.double.arm("slow", probability=0.5, seed=seed, seconds=0.01)
            if seed % 2:
                one.double.arm("error_500_before", probability=0.15, seed=seed)
            both = [world.children.start(world.run()) for world in (one, other)]
            for world, pid in zip((one, other), both, strict=True):
                ended = world.children.wait(pid)
                assert (ended["status"], ended["error"]) == (0, None)
            one.double.disarm()
            one.bill()
            other.one_more_run_must_finish()
            one.one_more_run_must_finish()
