"""Who may launch a run chooses no ledger, no source, no account, and no address for the key."""

from typing import Any

import pytest

from spell_billing.orchestration.billing_runs import problem_of
from spell_billing.orchestration.resources import StripeResource
from spell_billing.stripe_double import StripeDouble

ELSEWHERE = {
    "ledger": {"database_url": "sqlite:////nowhere/other.db"},
    "usage": {"store_path": "/nowhere"},
    "stripe": {"api_base": "https://example.org"},
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_run_that_configures_a_resource_is_refused_by_name(
    platform: Any, double: StripeDouble, name: str
) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 125))
    (field,) = ELSEWHERE[name]

    result = platform.run("2025-03", config={"resources": {name: {"config": ELSEWHERE[name]}}})

    assert not result.success
    problem = problem_of(platform.instance, result.run_id)
    assert problem.words.startswith(f"The run's configuration sets {name}.{field}."), problem
    assert "environment" in problem.words
    assert not problem.transient
    assert double.invoices() == []
    with platform.ledger() as ledger:
        assert ledger.months() == []


def test_the_defaults_that_the_launchpad_fills_in_are_no_choice(
    platform: Any, double: StripeDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What stands in the configuration replaces what the tests' own resource was made with.
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_of_the_environment")
    monkeypatch.setenv("STRIPE_API_BASE", double.base_url)
    fields = StripeResource.model_fields
    filled_in = {name: fields[name].default for name in ("timeout_seconds", "down_seconds")}
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 125))

    result = platform.run("2025-03", config={"resources": {"stripe": {"config": filled_in}}})

    assert result.success
