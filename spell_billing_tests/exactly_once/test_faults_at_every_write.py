"""Every way an answer can fail, at every write, with one run struck and one more to finish."""

from collections.abc import Iterable

import pytest

from spell_billing_tests.exactly_once.small_month import WRITES
from spell_billing_tests.exactly_once.world import World

ANSWERED_OR_LOST = [
    "lost_before",
    "lost_after",
    "error_500_before",
    "error_500_after",
    "error_500_unstored",
    "truncated",
    "conflict_409",
    "lock_timeout",
]
LIMITERS = ["endpoint-rate", "global-rate"]
LIKE_THEM = ["endpoint-concurrency", "global-concurrency", "resource-specific"]
SHORT_SECONDS = 0.25
TRIES_IN_A_RUN = 6


@pytest.mark.parametrize("kind", ANSWERED_OR_LOST)
def test_a_fault_at_any_write_costs_nobody_an_invoice(world: World, kind: str) -> None:
    for number in range(1, WRITES + 1):
        with world.point(f"{kind} at write {number}"):
            world.start_over()
            fault = world.double.arm(kind, nth=number)
            struck = world.bill()
            assert fault.fired == 1
            assert struck.unfinished == {}, "one fault must not outlast a run"
            world.must_be_finished()


# A reason decides for how much of Stripe a run slows down, and not how a write is sent again.
@pytest.mark.parametrize(
    ("reason", "writes"),
    [*((reason, range(1, WRITES + 1)) for reason in LIMITERS), *((reason, [2]) for reason in LIKE_THEM)],
)
def test_a_refused_request_is_sent_again(sqlite_world: World, reason: str, writes: Iterable[int]) -> None:
    world = sqlite_world
    for number in writes:
        with world.point(f"429 {reason} at write {number}"):
            world.start_over()
            world.double.arm("rate_limited", nth=number, reason=reason)
            struck = world.bill()
            assert (struck.unfinished, struck.limited) == ({}, 1)
            world.must_be_finished()


@pytest.mark.parametrize("kind", ["timeout", "timeout_before"])
def test_a_request_that_is_never_answered_is_sent_again(sqlite_world: World, kind: str) -> None:
    world = sqlite_world
    for number in range(1, WRITES + 1):
        with world.point(f"{kind} at write {number}"):
            world.start_over()
            fault = world.double.arm(kind, nth=number)
            world.bill(timeout_seconds=SHORT_SECONDS)
            assert fault.fired == 1
            world.one_more_run_must_finish()


@pytest.mark.parametrize(
    "kind", ["lost_before", "lost_after", "error_500_before", "error_500_after", "truncated"]
)
@pytest.mark.parametrize("expired", [False, True], ids=["keys_kept", "keys_expired"])
def test_a_request_that_fails_all_through_a_run_is_resolved_by_the_next(
    sqlite_world: World, kind: str, *, expired: bool
) -> None:
    world = sqlite_world
    for operation in ("invoices.create", "invoices.add_lines", "invoices.finalize"):
        with world.point(f"{kind} at every {operation}"):
            world.start_over()
            world.double.arm(kind, operation=operation, probability=1.0)
            struck = world.bill()
            world.double.disarm()
            assert struck.invoiced or struck.unfinished
            if expired:
                world.double.expire_all_keys()
            world.one_more_run_must_finish()
