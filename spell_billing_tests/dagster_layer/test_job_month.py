"""The whole job on one month: the numbers it reports, who is billed, and what cannot be billed."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from spell_billing.core.month import Month

ASSETS = ("raw_usage", "user_usage", "invoice_drafts", "stripe_invoices")
LARGE_CENTS = 100_000_000
"""One more than Stripe takes."""


@pytest.mark.both_databases
def test_every_asset_reports_exact_whole_numbers(platform: Any, metadata_of: Any) -> None:
    platform.accounts("user-0001", "user-0002")
    platform.calls("2025-03", *[("user-0001", 125)] * 2, ("user-0002", 1000), ("user-0003", 5))

    result = platform.bill("2025-03")

    expected = {
        "raw_usage": {"dagster/row_count": 4, "calls": 4, "usage_cents": 1255, "bad_rows": 0},
        "user_usage": {"dagster/row_count": 3, "users": 3, "calls": 4, "usage_cents": 1255},
        "invoice_drafts": {"dagster/row_count": 3, "users": 3, "calls": 4, "total_cents": 1255, "failed": 1},
        "stripe_invoices": {
            "dagster/row_count": 2,
            "users": 3,
            "calls": 4,
            "total_cents": 1255,
            "invoiced": 2,
            "invoiced_cents": 1250,
            "failed": 1,
            "unfinished": 0,
            "sent_nothing": False,
        },
    }
    for asset in ASSETS:
        found = metadata_of(result, asset)
        assert {name: found[name] for name in expected[asset]} == expected[asset]
        assert "dagster/column_schema" in found


def test_the_largest_users_stand_in_a_table_largest_first(platform: Any, metadata_of: Any) -> None:
    platform.calls("2025-03", *[(f"user-{number:04d}", number) for number in range(1, 13)])

    table = metadata_of(platform.bill("2025-03"), "user_usage")["largest_users"]

    assert [row.data["user_id"] for row in table.records] == [
        f"user-{number:04d}" for number in range(12, 2, -1)
    ]
    assert table.records[0].data == {"user_id": "user-0012", "calls": 1, "cost_cents": "12"}


def test_all_blocking_checks_ran_and_passed(platform: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100))

    checks = platform.bill("2025-03").get_asset_check_evaluations()

    assert {check.check_name for check in checks if check.passed and check.blocking} == {
        "no_bad_rows",
        "frozen_equals_source",
        "user_usage_equals_raw_usage",
        "drafts_equal_user_usage",
    }


@pytest.mark.both_databases
def test_users_who_cannot_be_billed_are_named_with_the_reason_and_do_not_stop_the_others(
    platform: Any, metadata_of: Any
) -> None:
    platform.accounts("user-billed")
    platform.source.accounts(
        [
            {"user_id": "user-blank", "stripe_customer_id": " "},
            {"user_id": "user-gone", "stripe_customer_id": "cus_nobody"},
            {"user_id": "user-large", "stripe_customer_id": "cus_user-billed"},
            {"user_id": "user-free", "stripe_customer_id": "cus_user-billed"},
        ]
    )
    platform.calls(
        "2025-03",
        ("user-billed", 700),
        ("user-blank", 1),
        ("user-gone", 2),
        ("user-large", LARGE_CENTS),
        ("user-free", 0),
        ("user-none", 3),
    )

    found = metadata_of(platform.bill("2025-03"), "stripe_invoices")

    assert {user: bill.reason for user, bill in platform.bills("2025-03").items()} == {
        "user-billed": None,
        "user-blank": "no_stripe_customer",
        "user-gone": "unknown_customer",
        "user-large": "amount_too_large",
        "user-free": "no_charge",
        "user-none": "no_billing_account",
    }
    assert [(invoice.customer, invoice.total_cents) for invoice in platform.invoices()] == [
        ("cus_user-billed", 700)
    ]
    assert (found["invoiced"], found["skipped"], found["failed"]) == (1, 1, 4)
    reasons = {row.data["reason"]: row.data["users"] for row in found["without_invoice"].records}
    assert reasons == {
        "no_stripe_customer": 1,
        "unknown_customer": 1,
        "amount_too_large": 1,
        "no_charge": 1,
        "no_billing_account": 1,
    }


def test_a_month_without_usage_succeeds_and_sends_nothing(platform: Any, metadata_of: Any) -> None:
    result = platform.bill("2025-03")

    assert metadata_of(result, "user_usage")["largest_users"] == "none"
    assert [metadata_of(result, asset)["dagster/row_count"] for asset in ASSETS] == [0, 0, 0, 0]
    assert platform.double.writes == []


def test_ids_of_any_text_are_billed_once_each(platform: Any) -> None:
    users = ["müller ☕ 日本", "user:0001:g1", "x" * 300, "x" * 299 + "y", "O'Brien\\", " leading", "🜁" * 120]
    for number, user in enumerate(users):
        platform.source.accounts([{"user_id": user, "stripe_customer_id": f"cus_{number}"}])
        platform.double.add_customer(f"cus_{number}")
    platform.calls("2025-03", *[(user, 100 + number) for number, user in enumerate(users)])

    platform.bill("2025-03")
    platform.bill("2025-03")

    bills = platform.bills("2025-03")
    assert set(bills) == set(users)
    assert {bill.state for bill in bills.values()} <= {"finalized", "paid"}
    assert sorted((each.customer, each.total_cents) for each in platform.invoices()) == [
        (f"cus_{number}", 100 + number) for number in range(len(users))
    ]
    assert platform.double.violations == []


def test_uuid_users_meet_their_accounts_kept_as_text(make_platform: Any, database_url: str) -> None:
    platform = make_platform(database_url, user_id="uuid", accounts_user_id="text")
    user = "0b6f7b0c-6d1d-4a4e-9a51-1f2f3c4d5e6f"
    platform.accounts(user)
    platform.calls("2025-03", (user, 400))

    platform.bill("2025-03")

    assert [invoice.total_cents for invoice in platform.invoices()] == [400]


def test_each_currency_is_billed_and_summed_on_its_own(platform: Any) -> None:
    platform.accounts("user-0001", currency="usd")
    platform.accounts("user-0002", currency="EUR")
    platform.calls("2025-03", ("user-0001", 100), ("user-0002", 250))

    platform.bill("2025-03")

    assert [(each.currency, each.total_cents) for each in platform.invoices()] == [("usd", 100), ("eur", 250)]
    with platform.ledger() as ledger:
        groups = {group.currency: group.total_cents for group in ledger.group_totals(Month(2025, 3))}
    assert groups == {"usd": 100, "eur": 250}
    assert "€2.50" in platform.bills("2025-03")["user-0002"].description


@pytest.mark.parametrize("column", ["numeric", "numeric(20, 6)"])
def test_fractions_are_summed_exactly_and_rounded_half_up_once_a_line(
    make_platform: Any, postgres_url: str, metadata_of: Any, column: str
) -> None:
    platform = make_platform(postgres_url, cost_cents=column)
    platform.accounts("user-0001", "user-0002", "user-0003")
    thirds = [("user-0001", Decimal("33.333333"))] * 3
    halves = [("user-0002", Decimal("0.5"))] * 201
    tenths = [("user-0003", Decimal("0.1"))] * 4
    platform.calls("2025-03", *thirds, *halves, *tenths)

    result = platform.bill("2025-03")

    bills = platform.bills("2025-03")
    assert {user: (bill.usage_cents, bill.total_cents) for user, bill in bills.items()} == {
        "user-0001": (Decimal("99.999999"), 100),
        "user-0002": (Decimal("100.5"), 101),
        "user-0003": (Decimal("0.4"), 0),
    }
    assert sum(bill.usage_cents for bill in bills.values()) == Decimal("200.899999")
    for asset in ASSETS:
        found = metadata_of(result, asset)
        assert (found["usage_cents"], found["usage_cents_exact"]) == (201, "200.899999")
    assert sorted(each.total_cents for each in platform.invoices()) == [100, 101]
    assert bills["user-0003"].reason == "no_charge"


def test_refunds_count_and_the_boundaries_are_exact(platform: Any, metadata_of: Any) -> None:
    month, tick = Month(2025, 3), timedelta(microseconds=1)
    platform.accounts("user-0001")
    platform.source.calls(
        [
            ("user-0001", 1_000_000, month.start - tick),
            ("user-0001", 300, month.start),
            ("user-0001", -50, month.start.replace(day=9)),
            ("user-0001", 7, month.end - tick),
            ("user-0001", 1_000_000, month.end),
        ]
    )

    result = platform.bill("2025-03")

    assert metadata_of(result, "raw_usage")["calls"] == 3
    assert [each.total_cents for each in platform.invoices()] == [257]


def test_the_invoice_says_what_the_platform_promises(platform: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", *[("user-0001", 617)] * 2)

    platform.bill("2025-03")

    (invoice,) = platform.invoices()
    text = "Spell Platform API Usage - March 2025 (2 calls, $12.34)"
    assert (invoice.description, invoice.lines[0].description) == (text, text)
    assert (invoice.lines[0].period_start, invoice.lines[0].period_end) == (1740787200, 1743465599)
    assert invoice.status == "paid"
    assert {record.operation for record in platform.double.writes} == {
        "invoices.create",
        "invoices.add_lines",
        "invoices.finalize",
    }
