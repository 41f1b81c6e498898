"""A restricted key with exactly the documented permissions does everything; without one, it is named."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spell_billing.core.errors import StripeAccountError
from spell_billing.reporting.readiness import CUSTOMER
from spell_billing.stripe_api.permissions import PERMISSIONS, missing_permission
from spell_billing_tests.payments.world import FOUR, ONE, THREE, TWO, World
from spell_billing_tests.proof.small_platform import APRIL, MARCH

KEY = "rk_test_least"
NAMES = frozenset(each.name for each in PERMISSIONS)
PORTAL = "/v1/billing_portal/sessions"


def life(world: World) -> Iterator[tuple[str, Callable[[], object], set[str]]]:
    """Give what asks Stripe for something, in an order in which it can happen.

    With each its name, and what it cannot do without and nothing before it needed.
    """
    platform = world.platform

    def dun() -> None:
        world.clock.shift(4 * 86_400)
        world.tick(3)

    def dispute() -> None:
        world.double.dispute(world.invoice_id(ONE), outcome="won")
        world.tick()

    def voided_at_stripe() -> None:
        platform.person_voids(world.invoice_id(FOUR))
        world.tick()

    def late_usage() -> None:
        platform.calls(MARCH, (ONE, 70))
        platform.calls(APRIL, (ONE, 400))
        platform.bill(APRIL)

    def adopt() -> None:
        platform.lose_the_ledger()
        platform.bill(MARCH, verify=True)

    async def portal(gateway: Any) -> None:
        parameters = {"customer": f"cus_{ONE}", "return_url": "https://billing.example.com"}
        await gateway.send(f"POST {PORTAL}", parameters)

    async def customer(gateway: Any) -> None:
        await gateway.send(CUSTOMER, customer=f"cus_{ONE}")

    platform.accounts(ONE, TWO, THREE, FOUR)
    platform.calls(MARCH, *((user, 1000) for user in (ONE, TWO, THREE, FOUR)))
    for user in (TWO, THREE, FOUR):
        world.card(user, "declined")
    yield "bill", lambda: platform.bill(MARCH), {"invoice_write"}
    world.advance()
    yield "follow", world.tick, {"event_read", "payment_intent_read"}
    yield "dun", dun, set()
    yield "void", lambda: platform.void(MARCH, THREE), set()
    yield "bill again", lambda: platform.bill(MARCH), set()
    yield "credit", lambda: platform.credit(MARCH, ONE, 300), {"credit_note_write"}
    yield "credit to balance", lambda: platform.credit(MARCH, ONE, 100, to_balance=True), set()
    yield "follow again", world.tick, {"charge_read"}
    yield "dispute", dispute, {"dispute_read"}
    yield "reconcile", lambda: platform.must_agree(MARCH), set()
    yield "voided at Stripe", voided_at_stripe, set()
    yield "settle", lambda: platform.settle(MARCH, FOUR), set()
    yield "late usage", late_usage, set()
    yield "customer", lambda: world.ask(customer), {"customer_read"}
    yield "portal", lambda: world.ask(portal), {"customer_portal_write"}
    yield "adopt", adopt, set()


def test_the_documented_permissions_are_enough_for_everything_and_each_is_named_where_it_lacks(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spell_billing_tests.proof.small_platform.KEY", KEY)
    double, shown = small_world.double, set()
    for name, step, needs in life(small_world):
        for permission in sorted(needs):
            others = NAMES - {permission}
            for allowed in {others, (others | {permission.replace("_write", "_read")}) - {permission}}:
                double.restrict(KEY, allowed)
                with pytest.raises(StripeAccountError) as refused:
                    step()
                assert f"({permission})" in refused.value.message, name
                assert "The restricted key in STRIPE_API_KEY lacks a permission for" in refused.value.message
                assert "docs/permissions.md" in refused.value.remedy
                shown.add(permission)
        double.restrict(KEY, NAMES)
        before = len(double.requests)
        step()
        refusals = [each.operation for each in double.requests[before:] if each.status == 403]
        assert set(refusals) <= {"account.retrieve"}, name
    assert shown == NAMES


@pytest.mark.parametrize(
    "words",
    [
        "Having the 'rak_invoice_write' permission would allow this request to continue.",
        "Enabling \"Invoices Write\" ('invoice_write') permissions on this key would allow this request.",
    ],
)
def test_both_ways_in_which_stripe_names_a_permission_are_understood(words: str) -> None:
    refused = "The provided key 'rk_live_*' does not have the required permissions for this endpoint. "

    assert missing_permission(refused + words) == "Invoices: Write (invoice_write)"
    assert missing_permission(refused) is None
