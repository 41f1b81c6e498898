"""A simulated year with everything on, or as much of it as is asked for: `make soak` for all of it."""

import logging
import os

import pytest

from spell_billing.core.month import Month
from spell_billing.payments import follow, places
from spell_billing_tests.payments.soak import Soak
from spell_billing_tests.payments.world import World

_LOG = logging.getLogger(__name__)
_LARGE = 1000
MONTHS, USERS, SEED = (
    int(os.environ.get(f"SOAK_{name}", usual)) for name, usual in (("MONTHS", 2), ("USERS", 40), ("SEED", 1))
)


# In CI one database must do.
pytestmark = [pytest.mark.both_databases] if "SOAK_MONTHS" in os.environ else []


@pytest.fixture(autouse=True)
def _ticks_that_do_not_read_a_month_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a tick leave as much of a small month as it does of a large one."""
    if USERS < _LARGE:
        monkeypatch.setattr(places, "PAGE", 10)
        for name, few in (("EVENT_PAGES", 4), ("LIST_PAGES", 2), ("LOOKS", 2)):
            monkeypatch.setattr(follow, name, few)


def test_frozen_usage_ledger_stripe_and_money_agree_for_every_month(
    world: World,
) -> None:
    soak = Soak(world, USERS, SEED)
    soak.prepare()
    months = [Month(2025, 4).plus(number) for number in range(MONTHS)]

    for month in months:
        soak.live_through(month)

    for month in months:
        soak.must_agree(month)
    assert (soak.kills > 0, soak.faults > 0) == (True, True)
    _LOG.warning("%d rows, %d runs killed, %d faults", soak.rows, soak.kills, soak.faults)
