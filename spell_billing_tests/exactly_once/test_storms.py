"""Storms: every fifth request fails, in every way at once, run after run, with kills in between."""

import random

import pytest

from spell_billing.core.errors import StripeAccountError
from spell_billing.stripe_double import FaultKind
from spell_billing_tests.exactly_once.invariants import check_stripe
from spell_billing_tests.exactly_once.small_month import WRITES
from spell_billing_tests.exactly_once.world import World

SHORT_SECONDS = 0.25
MOST_RUNS = 5
SHARE = 0.2
KINDS = [kind.value for kind in FaultKind if kind not in {FaultKind.NONE, FaultKind.SLOW}]


def raise_a_storm(world: World, seed: int) -> None:
    """Let a fifth of the requests fail: the writes, and the questions that a run asks to recover."""
    for index, kind in enumerate(KINDS):
        share = SHARE / len(KINDS)
        world.double.arm(kind, probability=share, seed=seed * 100 + index)
        for operation in ("invoices.list", "invoices.retrieve"):
            world.double.arm(kind, operation=operation, probability=share, seed=seed * 100 + 50 + index)


@pytest.mark.parametrize("seed", range(12))
def test_a_storm_delays_bills_and_breaks_none(world: World, seed: int) -> None:
    raise_a_storm(world, seed)
    for _ in range(MOST_RUNS):
        try:
            outcome = world.bill(timeout_seconds=SHORT_SECONDS)
        except StripeAccountError:
            continue
        finally:
            check_stripe(world.double)
        if not outcome.unfinished:
            break
    world.double.disarm()
    world.one_more_run_must_finish()


@pytest.mark.parametrize("seed", range(8))
def test_a_storm_with_kills_and_expiring_keys_breaks_no_bill(world: World, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not for secrets: the same storm in every run
    for _ in range(MOST_RUNS):
        raise_a_storm(world, chance.randrange(1_000))
        world.bill_killed_at_write(
            chance.randint(1, WRITES), after_effect=chance.random() < 0.5, timeout_seconds=SHORT_SECONDS
        )
        check_stripe(world.double)
        if chance.random() < 0.3:
            world.double.expire_all_keys()
    world.one_more_run_must_finish()
