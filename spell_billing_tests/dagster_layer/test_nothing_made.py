"""The job after a run of it that made nothing at Stripe: neither the month nor the account is bound by it."""

from typing import Any

import pytest

from spell_billing_tests.dagster_layer.conftest import Platform

MONTH = "2025-03"


def customers_later(platform: Platform, *users: str) -> None:
    platform.source.accounts([{"user_id": user, "stripe_customer_id": f"cus_{user}"} for user in users])


@pytest.mark.both_databases
def test_what_comes_before_the_first_invoice_is_on_it_although_a_run_tried_before(
    platform: Platform, metadata_of: Any
) -> None:
    customers_later(platform, "ada", "bob", "new")
    platform.calls(MONTH, ("ada", 500), ("bob", 600))
    first = platform.bill(MONTH)
    assert metadata_of(first, "stripe_invoices")["failed"] == 2
    assert {bill.reason for bill in platform.bills(MONTH).values()} == {"unknown_customer"}
    platform.calls(MONTH, ("ada", 30), ("new", 70))
    for user in ("ada", "bob", "new"):
        platform.double.add_customer(f"cus_{user}")

    platform.bill(MONTH)

    assert sorted((each.customer, each.total_cents) for each in platform.invoices()) == [
        ("cus_ada", 530),
        ("cus_bob", 600),
        ("cus_new", 70),
    ]
    lines = [line for bill in platform.bills(MONTH).values() for line in bill.parsed_lines]
    assert {line.kind for line in lines} == {"usage"}
    assert platform.double.violations == []


def test_a_limited_run_whose_bills_all_failed_leaves_the_month_to_be_frozen_again(
    platform: Platform, metadata_of: Any
) -> None:
    customers_later(platform, "ada", "bob", "new")
    platform.calls(MONTH, ("ada", 500), ("bob", 600))
    config = {"ops": {"stripe_invoices": {"config": {"first": 1}}}}
    platform.run(MONTH, config=config)
    assert [bill.state for bill in platform.bills(MONTH).values()] == ["failed", "planned"]
    platform.calls(MONTH, ("new", 70))
    for user in ("ada", "bob", "new"):
        platform.double.add_customer(f"cus_{user}")

    assert metadata_of(platform.run(MONTH, config=config), "raw_usage")["calls"] == 3
    platform.calls(MONTH, ("new", 5))
    platform.bill(MONTH)

    assert sorted(each.total_cents for each in platform.invoices()) == [70, 500, 600]
