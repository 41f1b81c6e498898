"""Events are read completely, however late they show, however many, however long we were away."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from spell_billing.core.errors import SpellBillingError
from spell_billing.ledger.cursors import read_cursor
from spell_billing.payments import catch_up, follow, places, stripe_events
from spell_billing_tests.payments.world import FOUR, ONE, THREE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH

OF_UNPAID = 2
"""The requests by which each daily reading lists open and given-up invoices."""


def place(world: World) -> stripe_events.Place:
    with world.ledger() as ledger, ledger.reading() as connection:
        found = places.read_place(connection, stripe_events.CURSOR, stripe_events.Place)
    assert found is not None
    return found


def reading(world: World) -> catch_up.Reading:
    with world.ledger() as ledger, ledger.reading() as connection:
        found = catch_up.read_reading(connection)
    assert found is not None
    return found


def hide(world: World, *types: str) -> list[object]:
    """Take events out of Stripe's list; give them."""
    hidden = [event for event in world.double.events() if event.type in types]
    for event in hidden:
        world.double.state.events.remove(event.id)
    return list(hidden)


def test_an_event_that_shows_late_is_read(world: World) -> None:
    world.bill(ONE, TWO)
    world.tick()
    world.advance()
    (late,) = [
        event
        for event in world.double.events()
        if event.type == "invoice.paid" and event.snapshot.id == world.invoice_id(ONE)
    ]
    world.double.state.events.remove(late.id)
    world.clock.shift(timedelta(minutes=4))
    world.platform.person_bills("cus_user-0002", 500)
    world.tick()
    assert (world.state(ONE), world.state(TWO)) == ("finalized", "paid")
    assert place(world).read_until > late.created

    world.double.state.events.put(replace(late, id="evt_late"))
    world.tick()

    assert world.state(ONE) == "paid"


def test_what_never_shows_is_found_by_the_daily_reading(world: World) -> None:
    world.bill(ONE, TWO, cards={TWO: "declined"})
    world.tick()
    world.advance()
    hide(world, "invoice.paid", "invoice.payment_failed")
    world.clock.shift(timedelta(hours=23))
    world.tick()
    assert (world.state(ONE), world.state(TWO)) == ("finalized", "finalized")
    world.clock.shift(timedelta(hours=2))
    world.tick()
    assert (world.state(ONE), world.state(TWO)) == ("paid", "payment_failed")
    assert world.followed(ONE)[0][0] == "stripe invoice"
    assert len(world.web.texts) == 1


def test_pages_are_read_to_the_end_over_many_ticks_and_none_is_skipped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [f"user-{number:04}" for number in range(1, 31)]
    world.bill(*users)
    world.tick()
    world.advance()
    monkeypatch.setattr(places, "PAGE", 4)
    monkeypatch.setattr(follow, "EVENT_PAGES", 2)
    until = place(world).read_until
    ticks = 0
    while True:
        ticks += 1
        world.clock.shift(60)
        done = world.tick()
        assert world.requests("events.list") <= 1 + 2 * ticks
        if not done.more:
            break
        assert place(world).read_until == until
        if ticks == 3:
            # What happens meanwhile stands above the pages under way.
            world.platform.person("POST", f"/v1/invoices/{world.invoice_id(users[0])}", {"metadata[x]": "y"})
            world.platform.person_bills("cus_user-0001", 500)
    assert ticks > 5
    assert {world.state(user) for user in users} == {"paid"}
    while world.tick().more:
        pass
    assert place(world).read_until > until


def test_a_tick_says_what_it_leaves_to_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.bill(ONE, TWO)
    world.advance()
    world.tick()
    for charge in list(world.double.state.charges):
        world.platform.person("POST", "/v1/refunds", {"charge": charge.id, "amount": 100})
    world.clock.shift(timedelta(hours=25))
    monkeypatch.setattr(follow, "LOOKS", 1)
    monkeypatch.setattr(follow, "LIST_PAGES", 0)

    told = world.tick().in_words

    assert told.endswith(
        "The next tick continues with invoices to look at again and older charges, credit notes and unpaid "
        "invoices."
    )
    monkeypatch.setattr(follow, "LIST_PAGES", 4)
    world.tick()
    assert world.tick().in_words == "nothing new."


@pytest.mark.both_databases
def test_a_page_whose_place_is_gone_begins_the_reading_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [f"user-{number:04}" for number in range(1, 11)]
    world.bill(*users)
    world.tick()
    world.advance()
    monkeypatch.setattr(places, "PAGE", 4)
    monkeypatch.setattr(follow, "EVENT_PAGES", 1)
    world.tick()
    after = place(world).after
    assert after is not None
    world.double.state.events.remove(after)
    monkeypatch.setattr(follow, "EVENT_PAGES", 50)
    world.tick()
    assert [world.state(user) for user in users].count("paid") >= 9


def test_after_days_of_downtime_the_events_of_those_days_are_read(world: World) -> None:
    world.bill(ONE, TWO, cards={TWO: "declined"})
    world.tick()
    world.advance()
    world.clock.shift(timedelta(days=20))
    asked = world.requests("invoices.list")
    world.tick()
    assert (world.state(ONE), world.state(TWO)) == ("paid", "payment_failed")
    assert world.requests("invoices.list") == asked + OF_UNPAID


@pytest.mark.both_databases
def test_after_more_than_stripe_keeps_the_invoices_themselves_are_read(world: World) -> None:
    users = [f"user-{number:04}" for number in range(1, 21)]
    cards = dict.fromkeys(users[10:], "declined")
    world.bill(*users, cards=cards)
    world.tick()
    world.advance()
    for _ in range(3):
        world.advance(days=3.1)
    world.platform.person_voids(world.invoice_id(users[19]))
    world.clock.shift(timedelta(days=40))

    done = world.tick()

    assert {world.state(user) for user in users[:10]} == {"paid"}
    assert {world.state(user) for user in users[10:19]} == {"payment_failed"}
    assert world.state(users[19]) == "parked"
    # Stripe's last attempt was its fourth, and no further one is planned: only the payment intent tells.
    assert world.payment(users[10]).failed_attempts == 4
    assert world.web.titles == ["9 payments of $90.00 failed"]
    assert done.invoices_read == 20
    assert place(world).read_until > (datetime.now(UTC) - timedelta(hours=2)).timestamp()


@pytest.mark.both_databases
def test_many_invoices_are_listed_and_few_are_retrieved(world: World) -> None:
    users = [f"user-{number:04}" for number in range(1, 41)]
    world.bill(*users)
    listed, retrieved = world.requests("invoices.list"), world.requests("invoices.retrieve")
    world.tick()
    assert world.requests("invoices.list") == listed + 1 + OF_UNPAID
    assert world.requests("invoices.retrieve") == retrieved
    world.advance()
    world.tick()
    world.platform.sql(
        f"UPDATE ledger_invoices SET state = 'finalized' WHERE user_id IN ('{users[0]}', '{users[1]}')",
        "DELETE FROM ledger_payments",
    )
    world.clock.shift(timedelta(hours=25))
    world.tick()
    assert world.requests("invoices.list") == listed + 1 + 2 * OF_UNPAID
    assert world.requests("invoices.retrieve") == retrieved + 2
    assert {world.state(user) for user in users} == {"paid"}


@pytest.mark.both_databases
def test_a_reading_of_many_invoices_goes_on_where_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [f"user-{number:04}" for number in range(1, 31)]
    world.bill(*users)
    world.advance()
    hide(world, "invoice.paid")
    monkeypatch.setattr(places, "PAGE", 7)
    monkeypatch.setattr(follow, "INVOICE_REQUESTS", 2)
    listed = world.requests("invoices.list")
    ticks = 1
    while world.tick().more:
        ticks += 1
        world.clock.shift(60)
    assert ticks == 3
    assert world.requests("invoices.list") == listed + 5 + OF_UNPAID
    assert {world.state(user) for user in users} == {"paid"}


def test_an_attempt_under_way_is_no_failure(world: World) -> None:
    world.bill(ONE)
    world.tick()
    account = world.double.state
    invoice = account.invoices.get(world.invoice_id(ONE))
    # A bank debit takes days: attempted, open, and nothing planned.
    account.put_invoice(replace(invoice, attempted=True, attempt_count=1, processing=True))
    world.platform.bill(MARCH, verify=True)
    assert world.state(ONE) == "finalized"


def test_an_invoice_that_stripe_does_not_have_stops_nothing(world: World) -> None:
    world.bill(ONE, TWO, THREE)
    world.platform.sql(f"UPDATE ledger_invoices SET stripe_invoice_id = 'in_gone' WHERE user_id = '{TWO}'")
    world.advance()
    world.tick()
    assert [world.state(user) for user in (ONE, TWO, THREE)] == ["paid", "finalized", "paid"]
    assert reading(world).months == []


def test_without_events_the_place_moves_with_the_clock(world: World) -> None:
    world.bill(ONE)
    for _ in range(5):
        world.clock.shift(timedelta(days=10))
        world.tick()
    assert place(world).read_until > (datetime.now(UTC) - timedelta(hours=2)).timestamp()


def test_stripe_s_failure_keeps_what_was_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [f"user-{number:04}" for number in range(1, 9)]
    world.bill(*users)
    world.tick()
    world.advance()
    monkeypatch.setattr(places, "PAGE", 3)
    for nth in (3, 4, 5):
        world.double.arm("error_500_before", operation="events.list", nth=nth)
    with pytest.raises(SpellBillingError):
        world.tick()
    paid = [world.state(user) for user in users].count("paid")
    assert 0 < paid < 8
    world.tick()
    assert {world.state(user) for user in users} == {"paid"}


@pytest.mark.both_databases
def test_nothing_of_a_card_is_kept(world: World) -> None:
    world.bill(ONE, FOUR, cards={ONE: "declined"})
    world.advance()
    world.tick()
    with world.ledger() as ledger, ledger.reading() as connection:
        cursor = read_cursor(connection, stripe_events.CURSOR)
        assert cursor is not None
        assert set(json.loads(cursor.value)) == {"read_until", "since", "newest", "after"}
        rows = connection.exec_driver_sql("SELECT content FROM ledger_events").scalars().all()
    kept = {name for row in rows for name in json.loads(row)}
    assert kept == {
        *("id", "status", "attempt_count", "next_payment_attempt", "amount_due", "amount_paid"),
        *("hosted_invoice_url", "invoice_pdf", "metadata", "starting_balance", "ending_balance"),
        *("pre_payment_credit_notes_amount", "post_payment_credit_notes_amount"),
    }
