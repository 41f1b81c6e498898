"""The checks on `stripe_invoices`, in the real job: they pass, name what is wrong, and ask sparingly."""

from typing import Any

import dagster as dg
import pytest

from spell_billing.core.outcomes import State
from spell_billing.orchestration.build import build_defs
from spell_billing.orchestration.resources import LedgerResource, StripeResource, UsageResource
from spell_billing_tests.proof.small_platform import KEY, MARCH, SmallPlatform

ONE, TWO, FREE = "user-0001", "user-0002", "user-0003"


def run_job(platform: SmallPlatform, **config: Any) -> dict[str, dg.AssetCheckEvaluation]:
    """Run the whole job of March, which must succeed; give its checks on the invoices."""
    stripe = StripeResource(
        api_key=KEY, api_base=platform.double.base_url, first_pause_seconds=0.001, tries=2
    )
    usage = UsageResource(database_url=platform.url, store_path=str(platform.store_path))
    ledger = LedgerResource(database_url=platform.url)
    defs = build_defs(resource_overrides={"ledger": ledger, "usage": usage, "stripe": stripe})
    result = defs.resolve_job_def("monthly_billing").execute_in_process(
        run_config={"ops": {"stripe_invoices": {"config": config}}},
        partition_key="2025-03-01",
        raise_on_error=False,
    )
    assert result.success
    return {
        each.check_name: each
        for each in result.get_asset_check_evaluations()
        if each.asset_key == dg.AssetKey("stripe_invoices")
    }


def fill(platform: SmallPlatform) -> None:
    platform.accounts(ONE, TWO, FREE)
    platform.calls(MARCH, (ONE, 1000), (ONE, 234), (TWO, 500), (FREE, 0))


def test_a_month_in_order_passes_and_its_rerun_sends_nothing_at_all(platform: SmallPlatform) -> None:
    fill(platform)
    first = run_job(platform)
    assert [first[name].passed for name in ("every_user_invoiced", "stripe_matches_ledger")] == [True, True]
    assert first["stripe_matches_ledger"].description == "2 invoices of $17.34 agree."
    assert first["stripe_matches_ledger"].metadata["stripe_cents"].value == 1734
    requests, trail = len(platform.double.requests), platform.trail(MARCH)
    assert trail[-1]["action"] == "reconciled"

    again = run_job(platform)

    assert again["stripe_matches_ledger"].passed
    assert again["stripe_matches_ledger"].description == "Unchanged since they last agreed."
    assert len(platform.double.requests) == requests
    assert platform.trail(MARCH) == trail


def test_a_change_in_the_ledger_makes_it_ask_again(light_platform: SmallPlatform) -> None:
    fill(light_platform)
    run_job(light_platform)
    light_platform.void(MARCH, ONE)
    requests = len(light_platform.double.requests)
    checks = run_job(light_platform)
    assert checks["stripe_matches_ledger"].passed
    assert checks["stripe_matches_ledger"].description == "2 invoices of $17.34 agree."
    asked = [each.operation for each in light_platform.double.requests[requests:]]
    assert asked[-4:] == ["invoices.list", "charges.list", "disputes.list", "credit_notes.list"]


def test_a_difference_fails_the_check_and_is_named_until_it_is_mended(light_platform: SmallPlatform) -> None:
    fill(light_platform)
    light_platform.bill(MARCH)
    light_platform.sql(
        "UPDATE ledger_invoices SET stripe_customer_id = 'cus_else' WHERE user_id = 'user-0001'"
    )
    for _ in range(2):
        check = run_job(light_platform)["stripe_matches_ledger"]
        assert not check.passed
        assert check.description is not None
        assert f"{ONE}: customer_differs (cus_else / cus_{ONE}). Compare it" in check.description
        assert check.metadata["differences"].value == 1
    light_platform.sql(f"UPDATE ledger_invoices SET stripe_customer_id = 'cus_{ONE}' WHERE user_id = '{ONE}'")
    assert run_job(light_platform)["stripe_matches_ledger"].passed


def test_a_user_without_invoice_fails_one_check_and_not_the_other(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE)
    light_platform.source.accounts([{"user_id": "user-0008", "stripe_customer_id": "cus_nobody"}])
    light_platform.calls(MARCH, (ONE, 100), (TWO, 30), ("user-0008", 7))
    checks = run_job(light_platform)
    named = checks["every_user_invoiced"]
    assert not named.passed
    assert (
        named.description
        == "1 failed (no_billing_account): user-0002; 1 failed (unknown_customer): user-0008"
    )
    assert (named.metadata["users"].value, named.metadata["total_cents"].value) == (2, 37)
    assert checks["stripe_matches_ledger"].passed


def test_an_outage_fails_the_check_and_not_the_run(light_platform: SmallPlatform) -> None:
    fill(light_platform)
    # The sweep's list is answered; those of the check are not, with what the HTTP client repeats by itself.
    for nth in range(2, 12):
        light_platform.double.arm("lost_before", operation="invoices.list", nth=nth)
    checks = run_job(light_platform)
    check = checks["stripe_matches_ledger"]
    assert not check.passed
    assert check.description is not None
    assert check.description.startswith("Not compared: Stripe cannot be asked what stands for 2025-03")
    assert checks["every_user_invoiced"].passed
    assert {light_platform.bill_of(MARCH, user).state for user in (ONE, TWO)} == {State.FINALIZED}
    light_platform.double.disarm()
    assert run_job(light_platform)["stripe_matches_ledger"].passed


@pytest.mark.parametrize("verify", [False, True])
def test_a_person_s_void_is_seen_by_a_verifying_run(light_platform: SmallPlatform, *, verify: bool) -> None:
    fill(light_platform)
    run_job(light_platform)
    light_platform.person_voids(light_platform.bill_of(MARCH, ONE).stripe_invoice_id)
    checks = run_job(light_platform, verify=verify)
    assert [checks[name].passed for name in ("every_user_invoiced", "stripe_matches_ledger")] == [
        not verify,
        not verify,
    ]
