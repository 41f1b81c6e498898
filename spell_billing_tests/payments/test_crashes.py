"""A tick that dies at any of its writes: the next one completes it, and people hear once."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy.engine import Connection

from spell_billing.core.errors import AlertError
from spell_billing.ledger.ledger import Ledger
from spell_billing.settings.databases import parse_database_url
from spell_billing_tests.payments.world import FOUR, ONE, THREE, TWO, World


class Killed(BaseException):
    """The process ends here: nothing catches it."""


class DyingLedger(Ledger):
    """A ledger whose process dies at its n-th transaction: before it is committed, or right after."""

    def __init__(self, url: str, *, dies_at: int, committed: bool) -> None:
        super().__init__(parse_database_url(url, setting="DATABASE_URL"))
        self._left = dies_at
        self._committed = committed

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        self._left -= 1
        with super().writing() as connection:
            yield connection
            if self._left == 0 and not self._committed:
                raise Killed
        if self._left == 0:
            raise Killed


def prepare(world: World) -> None:
    world.bill(ONE, TWO, THREE, FOUR, cards={TWO: "declined", THREE: "none"})
    world.tick()
    world.advance()
    world.platform.person_voids(world.invoice_id(THREE))


def must_be_complete(world: World) -> None:
    assert [world.state(user) for user in (ONE, TWO, THREE, FOUR)] == [
        *("paid", "payment_failed", "parked", "paid"),
    ]
    assert len(world.web.texts) == 1, world.web.texts
    assert world.alerted(TWO) == [1]
    assert all(len(world.followed(user)) == 1 for user in (ONE, TWO, FOUR))
    assert None not in {outcome for _, outcome in world.inbox()}


@pytest.mark.parametrize("committed", [False, True], ids=["before_commit", "after_commit"])
def test_a_tick_killed_at_any_write_is_completed_by_the_next(world: World, *, committed: bool) -> None:
    prepare(world)
    died = 0
    # Each round dies one write later than the one before, in what is left to do.
    while True:
        died += 1
        with DyingLedger(world.platform.url, dies_at=died, committed=committed) as ledger:
            try:
                world.tick(ledger=ledger)
            except Killed:
                continue
        break
    assert died > 5
    must_be_complete(world)


@pytest.mark.parametrize("committed", [False, True], ids=["before_commit", "after_commit"])
@pytest.mark.parametrize("dies_at", range(1, 12))
def test_a_tick_killed_once_is_completed_by_the_next(
    small_world: World, dies_at: int, *, committed: bool
) -> None:
    prepare(small_world)
    url = small_world.platform.url
    with suppress(Killed), DyingLedger(url, dies_at=dies_at, committed=committed) as ledger:
        small_world.tick(ledger=ledger)
    small_world.tick()
    must_be_complete(small_world)


def test_a_summary_that_was_cut_off_says_the_same_again(small_world: World) -> None:
    users = [f"user-{number:04}" for number in range(1, 13)]
    small_world.bill(*users, cards=dict.fromkeys(users, "declined"))
    small_world.tick()
    later = [f"/v1/invoices/{small_world.invoice_id(user)}" for user in users[8:]]
    for path in later:
        small_world.platform.person("POST", path, {"auto_advance": "false"})
    small_world.advance()
    small_world.web.status = 500
    with pytest.raises(AlertError):
        small_world.tick()
    for path in later:
        small_world.platform.person("POST", path, {"auto_advance": "true"})
    small_world.advance()
    small_world.web.status = 200
    small_world.tick()
    assert small_world.web.titles == [
        "8 payments of $80.00 failed",
        *(f"Payment of $10.00 failed: {user}, 2025-03" for user in users[8:]),
    ]
    assert small_world.tick().alerts_sent == 0
