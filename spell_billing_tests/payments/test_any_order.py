"""Whatever order events come in, twice or in pieces: the ledger ends up the same, and as Stripe says."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.money_tables import payments
from spell_billing.ledger.payments import newest, read_payments
from spell_billing.ledger.schema import audit, events, invoices
from spell_billing.payments.handler import handle_batch, receive
from spell_billing_tests.payments.world import FOUR, ONE, THREE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH

_FIVE = "user-0005"
_USERS = (ONE, TWO, THREE, FOUR, _FIVE)


@pytest.fixture
def after_weeks(world: World) -> World:
    """Give a world in which each user's invoice had a fate of its own, and the ledger heard nothing."""
    world.bill(*_USERS, cards={TWO: "declined", THREE: "declined", FOUR: "insufficient_funds", _FIVE: "none"})
    world.advance()
    world.card(TWO, "ok")
    world.platform.person("POST", f"/v1/invoices/{world.invoice_id(FOUR)}/mark_uncollectible")
    world.advance(days=3.1)
    world.platform.person("POST", f"/v1/invoices/{world.invoice_id(FOUR)}/pay", {"paid_out_of_band": "true"})
    world.advance(days=3.1)
    world.platform.person("POST", f"/v1/invoices/{world.invoice_id(_FIVE)}/mark_uncollectible")
    world.advance(days=3.1)
    return world


def clean(ledger: Ledger) -> None:
    """Forget all that was heard of payments."""
    with ledger.writing() as connection:
        connection.execute(payments.delete())
        connection.execute(events.delete())
        connection.execute(invoices.update().values(state="finalized"))


def what_is_known(ledger: Ledger) -> tuple[Any, Any]:
    bills = {bill.user_id: bill.state.value for bill in ledger.bills(MARCH)}
    with ledger.reading() as connection:
        return bills, read_payments(connection, MARCH)


@pytest.mark.both_databases
def test_any_order_any_split_any_repetition_ends_in_the_same_ledger(after_weeks: World) -> None:
    history = after_weeks.events()
    assert len(history) > 25
    with after_weeks.ledger() as ledger:
        ledger.write(receive, history, "webhook")
        handle_batch(ledger, 500)
        bills, known = what_is_known(ledger)
        assert bills == {
            ONE: "paid",
            TWO: "paid",
            THREE: "payment_failed",
            FOUR: "paid",
            _FIVE: "uncollectible",
        }
        assert [payment.failed_attempts for payment in known] == [0, 1, 4, 1, 3]
        numbers = range(len(history))

        @given(
            order=st.permutations(numbers),
            again=st.lists(st.sampled_from(numbers), max_size=15),
            cuts=st.sets(st.integers(1, len(history)), max_size=6),
            batch=st.integers(1, 12),
        )
        def ends_the_same(order: list[int], again: list[int], cuts: set[int], batch: int) -> None:
            clean(ledger)
            heard = [history[number] for number in [*order, *again]]
            ends = [*sorted(cuts), len(heard)]
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                ledger.write(receive, heard[start:end], "webhook")
                while handle_batch(ledger, batch).waiting:
                    pass
            assert what_is_known(ledger) == (bills, known)

        ends_the_same()
        with ledger.reading() as connection:
            steps = connection.execute(
                sa.select(audit.c.from_state, audit.c.to_state).where(audit.c.action == "status_followed")
            )
            upwards = ["finalized", "payment_failed", "uncollectible", "paid"]
            assert all(upwards.index(before) < upwards.index(after) for before, after in steps)


def test_an_event_is_handled_once_whichever_ways_it_comes_in(world: World) -> None:
    world.bill(ONE)
    world.advance()
    world.hear(world.events("invoice.paid"))
    before = world.platform.trail(MARCH, ONE)
    world.tick()
    world.hear(world.events())
    assert world.platform.trail(MARCH, ONE) == before
    assert world.followed(ONE) == [("webhook", "finalized", "paid")]


@pytest.mark.both_databases
def test_two_handlers_at_once_share_the_inbox(world: World) -> None:
    users = [f"user-{number:04}" for number in range(1, 41)]
    world.bill(*users)
    world.advance()
    history = world.events()

    def work(turn: int) -> int:
        with world.ledger() as ledger:
            ledger.write(receive, history if turn % 2 else list(reversed(history)), "webhook")
            handled = 0
            for _ in range(40):
                handled += handle_batch(ledger, 7).events
            return handled

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == len(history)
    assert {world.state(user) for user in users} == {"paid"}
    assert all(len(world.followed(user)) == 1 for user in users)


@pytest.mark.both_databases
def test_what_is_kept_of_two_snapshots_does_not_depend_on_their_order(after_weeks: World) -> None:
    after_weeks.hear(after_weeks.events("invoice.payment_failed"))
    with after_weeks.ledger() as ledger, ledger.reading() as connection:
        known = read_payments(connection, MARCH)
    for one in known:
        for other in known:
            assert newest(one, other) == newest(other, one)
