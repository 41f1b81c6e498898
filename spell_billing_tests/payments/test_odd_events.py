"""Events that cannot be read are set aside, and stop nothing; Stripe's own examples are read."""

from typing import Any

import pytest

from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.stripe_double.shapes import FIXTURES


@pytest.mark.parametrize(
    "odd",
    [
        {"status": "somehow_new"},
        {"amount_due": None},
        {"amount_paid": "ten"},
        {"next_payment_attempt": 10**20},
    ],
)
def test_an_event_that_cannot_be_read_is_set_aside_and_told_once(world: World, odd: dict[str, Any]) -> None:
    world.bill(ONE, TWO)
    world.advance()
    happened = world.events("invoice.paid")
    broken = happened[0]
    whole = dict(broken["data"]["object"])
    broken["data"]["object"].update(odd)

    world.hear(happened)

    assert ("invoice.paid", "set_aside") in world.inbox()
    assert ("invoice.paid", "handled") in world.inbox()
    world.double.state.events.remove(broken["id"])
    for _ in range(2):
        world.tick()
    assert len([text for text in world.web.texts if "could not be read" in text]) == 1
    assert broken["data"]["object"]["id"] == whole["id"]


def test_an_event_of_no_shape_at_all_stops_nothing(world: World) -> None:
    world.bill(ONE)
    world.advance()
    (good,) = world.events("invoice.paid")
    odd: list[dict[str, Any]] = [
        {"id": "evt_1", "type": "invoice.paid"},
        {"id": "evt_2", "type": "invoice.paid", "created": "today", "data": {}},
        {"id": "evt_3", "type": "invoice.paid", "created": 1, "data": {"object": "in_1"}},
        {
            "id": "evt_4",
            "type": "charge.dispute.created",
            "created": 1,
            "data": {"object": {"object": "dispute"}},
        },
        {"type": "invoice.paid", "created": 1},
    ]

    world.hear([*odd, good])

    assert world.state(ONE) == "paid"
    world.tick()
    assert world.state(ONE) == "paid"


def test_every_example_of_stripe_s_own_is_read(world: World) -> None:
    """An event of each kind with Stripe's own example object is read, and none of them is an error."""
    world.bill(ONE)
    kinds = {
        "charge": ("charge.refunded", "charge.failed"),
        "credit_note": ("credit_note.created", "credit_note.voided"),
        "dispute": ("charge.dispute.created", "charge.dispute.closed"),
        "invoice": ("invoice.paid", "invoice.payment_failed", "invoice.updated"),
    }
    happened = [
        {"id": f"evt_{kind}", "type": kind, "created": 1_743_500_000, "data": {"object": shown}}
        for name, shown in FIXTURES.items()
        for kind in kinds.get(name, (f"{name}.updated",))
    ]

    world.hear(happened)
    world.tick()

    outcomes = {outcome for _, outcome in world.inbox()}
    assert outcomes == {"not_ours", "ignored_type", "draft", "handled"}
