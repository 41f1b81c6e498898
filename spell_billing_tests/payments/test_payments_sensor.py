"""The sensor on a real Dagster instance: what it says, through failure and recovery."""

import logging
from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from spell_billing.core.errors import AlertError, SettingsError, SpellBillingError
from spell_billing.orchestration.build import build_defs
from spell_billing.orchestration.resources import AlertResource, LedgerResource, StripeResource
from spell_billing_tests.payments.world import ONE, TWO, World
from spell_billing_tests.proof.small_platform import MARCH


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def evaluate(world: World, instance: dg.DagsterInstance, *, key: str | None = "sk_test_sensor") -> str:
    """Evaluate the sensor as the code location defines it; give what it says."""
    defs = build_defs(
        resource_overrides={
            "ledger": LedgerResource(database_url=world.platform.url),
            "stripe": StripeResource(
                api_key=key, api_base=world.double.base_url, tries=2, first_pause_seconds=0.01
            ),
            "alerts": AlertResource(urls=[world.web.url()]),
        }
    )
    sensor = defs.resolve_sensor_def("payments")
    context = dg.build_sensor_context(
        instance=instance,
        definitions=defs,
        sensor_name="payments",
        resources={name: (defs.resources or {})[name] for name in sensor.required_resource_keys},
    )
    data: SensorExecutionData = sensor.evaluate_tick(context)
    assert data.run_requests == []
    assert data.skip_message is not None
    return data.skip_message


def test_it_runs_every_minute_by_itself() -> None:
    sensor = build_defs().resolve_sensor_def("payments")
    assert sensor.minimum_interval_seconds == 60
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_without_a_key_it_says_so_and_asks_nothing(world: World, instance: dg.DagsterInstance) -> None:
    world.bill(ONE)
    asked = len(world.double.requests)
    assert evaluate(world, instance, key=None) == "STRIPE_API_KEY is not set: no payment can be followed."
    assert len(world.double.requests) == asked


@pytest.mark.both_databases
def test_without_an_invoice_it_says_so_and_asks_nothing(world: World, instance: dg.DagsterInstance) -> None:
    nothing = "No bill has an invoice at Stripe: there is nothing to follow."
    assert evaluate(world, instance) == nothing
    world.platform.accounts(ONE)
    world.platform.calls(MARCH, (ONE, 1000))
    world.platform.draft(MARCH)
    assert evaluate(world, instance) == nothing
    assert world.double.requests == []


def test_it_follows_and_says_what_it_did(world: World, instance: dg.DagsterInstance) -> None:
    world.bill(ONE, TWO, cards={TWO: "declined"})
    assert evaluate(world, instance) == "2 events read, 2 events handled, 2 invoices read."
    world.advance()
    assert evaluate(world, instance) == (
        "2 events read, 2 events handled, 1 reasons looked up, 2 bills settled, 1 alerts sent."
    )
    assert evaluate(world, instance) == "nothing new."
    assert (world.state(ONE), world.state(TWO)) == ("paid", "payment_failed")


def test_stripe_fails_and_recovers(world: World, instance: dg.DagsterInstance) -> None:
    world.bill(ONE)
    world.advance()
    world.double.arm("error_500_before", operation="events.list", times=1000)
    with pytest.raises(SpellBillingError, match="the next tick tries again"):
        evaluate(world, instance)
    world.double.disarm()
    evaluate(world, instance)
    assert world.state(ONE) == "paid"


def test_the_alert_channel_fails_and_recovers(world: World, instance: dg.DagsterInstance) -> None:
    world.bill(ONE, cards={ONE: "declined"})
    world.advance()
    world.web.status = 503
    with pytest.raises(AlertError):
        evaluate(world, instance)
    assert world.state(ONE) == "payment_failed"
    world.web.status = 200
    assert evaluate(world, instance) == "1 alerts sent."
    assert evaluate(world, instance) == "nothing new."
    assert len(world.web.texts) == 1


def test_a_malformed_dunning_setting_is_an_error_that_stops_no_payment(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.bill(ONE)
    world.advance()
    monkeypatch.setenv("DUNNING_DAYS", "soon")
    with pytest.raises(SettingsError, match="DUNNING_DAYS"):
        evaluate(world, instance)
    assert world.state(ONE) == "paid"


def test_dunning_is_switched_on_by_its_setting(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.bill(ONE, cards={ONE: "declined"})
    world.advance()
    evaluate(world, instance)
    monkeypatch.setenv("DUNNING_DAYS", "3,5")
    world.card(ONE, "ok")
    world.clock.shift(timedelta(days=3, hours=1))
    assert "1 dunning steps, 1 dunning paid" in evaluate(world, instance)
    assert world.state(ONE) == "paid"


def test_a_tick_while_another_is_at_work_does_nothing(world: World, instance: dg.DagsterInstance) -> None:
    world.bill(ONE)
    with world.ledger() as ledger, ledger.exclusive("payments", wait_seconds=0):
        assert evaluate(world, instance) == "The previous tick is still running."


def test_no_secret_is_written(
    world: World, instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    world.bill(ONE, cards={ONE: "declined"})
    world.advance()
    with caplog.at_level(logging.DEBUG, logger="spell_billing"):
        evaluate(world, instance, key="sk_test_very_secret")
    assert "very_secret" not in caplog.text + "".join(world.web.texts)
    assert "hosted" not in "".join(world.web.texts)
    assert "invoice.stripe.com" not in "".join(world.web.texts)
