"""The asset that says what other prices would have charged: by hand, with its figures as metadata."""

import hashlib
from typing import Any

import dagster as dg
import pytest

from spell_billing.orchestration.assets.price_simulation import price_simulation
from spell_billing_tests.dagster_layer.conftest import Platform

PRICES = "plans:\n  pro: {monthly_fee_cents: 500}\n"


@pytest.fixture
def billed(platform: Platform) -> Platform:
    """Give a platform whose March is billed: one user on a plan that includes 3.00, one on none."""
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 300}])
    platform.accounts("ada", plan_id="pro")
    platform.accounts("bob")
    platform.calls("2025-03", ("ada", 700), ("bob", 100))
    platform.bill("2025-03")
    return platform


def materialize(platform: Platform, pricing: str, last: str = "2025-03") -> dg.ExecuteInProcessResult:
    config = {"from_month": "2025-03", "to_month": last, "pricing": pricing}
    resources = {name: platform.resources()[name] for name in ("ledger", "usage")}
    return dg.materialize(
        [price_simulation],
        resources=resources,
        run_config={"ops": {"price_simulation": {"config": config}}},
        raise_on_error=False,
    )


def figures(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (done,) = result.asset_materializations_for_node("price_simulation")
    return {name: value.value for name, value in done.metadata.items()}


def test_the_figures_are_metadata_and_nothing_is_written(billed: Platform) -> None:
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in billed.store.rglob("*.*")}
    bills = billed.bills("2025-03")

    by_text = figures(materialize(billed, PRICES))

    assert (by_text["usd_before_cents"], by_text["usd_after_cents"], by_text["usd_pay_more"]) == (
        500,
        1_300,
        1,
    )
    assert "| in all | 2 | $5.00 | $13.00 | 1 | 0 | $0.00 | $8.00 |" in by_text["summary"]
    assert billed.bills("2025-03") == bills
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in billed.store.rglob("*.*")} == before


def test_what_cannot_be_simulated_is_a_failure_with_its_remedy(billed: Platform) -> None:
    for pricing, last, named in (
        (PRICES, "2025-04", "no frozen usage of 2025-04"),
        ("plans:\n  gold: {}\n", "2025-03", "'gold' in plans"),
        ("/etc/passwd", "2025-03", "pricing has no keys"),
        (PRICES, "April", "'April' is not a month"),
    ):
        result = materialize(billed, pricing, last)
        failure = result.failure_data_for_node("price_simulation")
        assert not result.success
        assert failure is not None
        assert failure.user_failure_data is not None
        assert named in str(failure.user_failure_data.description)
