"""The job over repeated runs and months: what was billed stays, what came late or is owed follows once."""

from typing import Any

import pytest

from spell_billing.core.month import Month


def lines_of(platform: Any, month: str, user: str) -> list[tuple[str, int]]:
    return [(line.description, line.amount_cents) for line in platform.bills(month)[user].parsed_lines]


def test_a_month_billed_again_sends_nothing_and_says_so(platform: Any, metadata_of: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100))
    platform.bill("2025-03")
    sent, before = len(platform.double.requests), platform.bills("2025-03")

    found = metadata_of(platform.bill("2025-03"), "stripe_invoices")

    assert len(platform.double.requests) == sent
    assert platform.bills("2025-03") == before
    assert found["sent_nothing"] is True
    assert (found["invoiced"], found["invoiced_in_this_run"], found["stripe_requests"]) == (1, 0, 0)


def test_verify_asks_stripe_about_a_finished_month_and_writes_nothing(
    platform: Any, metadata_of: Any
) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100))
    platform.bill("2025-03")
    written = len(platform.double.writes)

    config = {"ops": {"stripe_invoices": {"config": {"verify": True}}}}
    found = metadata_of(platform.run("2025-03", config=config), "stripe_invoices")

    # Whose account it is, and the list.
    assert found["stripe_requests"] == 2
    assert len(platform.double.writes) == written


def test_an_account_mended_later_is_billed_by_the_next_run_and_nobody_else_is_touched(
    platform: Any, metadata_of: Any
) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100), ("user-0002", 250))
    first = metadata_of(platform.bill("2025-03"), "stripe_invoices")
    untouched = platform.invoices()
    platform.accounts("user-0002")

    second = metadata_of(platform.bill("2025-03"), "stripe_invoices")

    assert (first["invoiced"], first["failed"]) == (1, 1)
    assert (second["invoiced"], second["failed"], second["invoiced_in_this_run"]) == (2, 0, 1)
    assert platform.invoices()[:1] == untouched
    assert [(each.customer, each.total_cents) for each in platform.invoices()] == [
        ("cus_user-0001", 100),
        ("cus_user-0002", 250),
    ]


def test_a_customer_made_at_stripe_later_is_billed_by_the_next_run(platform: Any) -> None:
    platform.source.accounts([{"user_id": "user-0001", "stripe_customer_id": "cus_late"}])
    platform.calls("2025-03", ("user-0001", 100))
    platform.bill("2025-03")
    assert platform.bills("2025-03")["user-0001"].reason == "unknown_customer"
    platform.double.add_customer("cus_late")

    platform.bill("2025-03")

    assert platform.bills("2025-03")["user-0001"].state == "finalized"
    assert [each.total_cents for each in platform.invoices()] == [100]
    assert platform.double.violations == []


def test_late_usage_is_named_on_the_next_invoice_once_and_the_billed_month_stays(
    platform: Any, metadata_of: Any
) -> None:
    platform.accounts("user-0001", "user-0002", "user-0003")
    platform.calls("2025-03", ("user-0001", 100), ("user-0002", 200))
    platform.bill("2025-03")
    march = platform.bills("2025-03")
    platform.calls("2025-03", ("user-0001", 30), ("user-0001", 12), ("user-0003", 90))
    platform.calls("2025-04", ("user-0001", 1000), ("user-0002", 500))

    again = platform.bill("2025-03")
    april = platform.bill_approved("2025-04")
    platform.calls("2025-05", ("user-0001", 1), ("user-0003", 2))
    platform.bill("2025-05")

    assert platform.bills("2025-03") == march
    assert metadata_of(again, "raw_usage")["calls"] == 2
    assert lines_of(platform, "2025-04", "user-0001") == [
        ("Spell Platform API Usage - April 2025 (1 calls, $10.00)", 1000),
        ("Late usage - March 2025 (2 calls, $0.42)", 42),
    ]
    assert lines_of(platform, "2025-04", "user-0003") == [("Late usage - March 2025 (1 calls, $0.90)", 90)]
    assert [each[1] for each in lines_of(platform, "2025-04", "user-0002")] == [500]
    assert [each[1] for each in lines_of(platform, "2025-05", "user-0001")] == [1]
    assert [each[1] for each in lines_of(platform, "2025-05", "user-0003")] == [2]
    (late,) = metadata_of(april, "raw_usage")["late_usage"].records
    assert late.data == {"month": "2025-03", "users": 2, "calls": 3, "usage_cents": "132"}
    assert sum(each.total_cents for each in platform.invoices()) == 300 + 1500 + 132 + 3


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("used", "late", "billed", "charged"),
    [
        pytest.param(300, 150, 0, 0, id="the allowance covers both"),
        pytest.param(300, 450, 0, 250, id="the allowance covers a part"),
        pytest.param(700, 150, 200, 150, id="the allowance was used up"),
    ],
)
def test_late_usage_takes_what_was_left_of_its_own_month_s_allowance(
    platform: Any, used: int, late: int, billed: int, charged: int
) -> None:
    platform.source.plans([{"plan_id": "starter", "name": "Starter", "included_cents": 500}])
    platform.accounts("user-0001", plan_id="starter")
    platform.calls("2025-03", ("user-0001", used))
    platform.bill("2025-03")
    platform.calls("2025-03", ("user-0001", late))
    platform.calls("2025-04", ("user-0001", 800))

    platform.bill_approved("2025-04")

    assert platform.bills("2025-03")["user-0001"].total_cents == billed
    amounts = dict(lines_of(platform, "2025-04", "user-0001"))
    assert amounts == {
        "Spell Platform API Usage - April 2025 (1 calls, $8.00)": 800,
        "Included in Starter (-$5.00)": -500,
        f"Late usage - March 2025 (1 calls, ${charged / 100:.2f})": charged,
    }
    assert platform.bills("2025-04")["user-0001"].total_cents == 300 + charged


def test_rows_that_vanish_after_billing_come_off_the_next_invoice(platform: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100), ("user-0001", 40))
    platform.bill("2025-03")
    platform.source.execute("DELETE FROM usage_counters WHERE cost_cents = 40")
    platform.calls("2025-04", ("user-0001", 300))

    platform.bill_approved("2025-04")

    assert lines_of(platform, "2025-04", "user-0001")[1] == (
        "Late usage - March 2025 (-1 calls, -$0.40)",
        -40,
    )
    assert [each.total_cents for each in platform.invoices()] == [140, 260]


def test_a_negative_month_is_carried_and_used_up_by_the_following_ones(platform: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100), ("user-0001", -600))
    platform.calls("2025-04", ("user-0001", 350))
    platform.calls("2025-05", ("user-0001", 400))
    platform.calls("2025-06", ("user-0001", 10))

    for month in ("2025-03", "2025-04", "2025-05", "2025-06"):
        platform.bill(month)

    march, april, may, june = (
        platform.bills(month)["user-0001"] for month in ("2025-03", "2025-04", "2025-05", "2025-06")
    )
    assert (march.state, march.reason, march.carried_cents) == ("skipped", "credit_carried", 500)
    assert (april.state, april.credit_applied_cents, april.total_cents) == ("skipped", 350, 0)
    assert (may.state, may.credit_applied_cents, may.total_cents) == ("finalized", 150, 250)
    assert (june.credit_applied_cents, june.total_cents) == (0, 10)
    assert lines_of(platform, "2025-05", "user-0001")[-1] == (
        "Credit carried from earlier months (-$1.50)",
        -150,
    )
    assert [each.total_cents for each in platform.invoices()] == [250, 10]


def test_usage_that_comes_between_two_drafts_is_in_the_second(platform: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100))
    assert platform.run("2025-03", ["raw_usage", "user_usage", "invoice_drafts"]).success
    platform.calls("2025-03", ("user-0001", 11))

    platform.bill("2025-03")

    assert [each.total_cents for each in platform.invoices()] == [111]


def test_an_account_s_currency_that_changed_holds_the_user(platform: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", -500))
    platform.bill("2025-03")
    platform.source.execute("UPDATE billing_accounts SET currency = 'eur'")
    platform.calls("2025-04", ("user-0001", 900))

    platform.bill("2025-04")

    bill = platform.bills("2025-04")["user-0001"]
    assert (bill.state, bill.reason) == ("held", "currency_changed")
    assert platform.invoices() == []


def test_every_step_of_a_bill_stands_in_the_audit_trail(platform: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100))

    result = platform.run("2025-03", tags={"spell_billing/actor": "somebody@somewhere"})

    with platform.ledger() as ledger:
        trail = ledger.audit_trail(Month(2025, 3))
    steps = [(each["action"], each["from_state"], each["to_state"]) for each in trail]
    assert steps[:5] == [
        ("drafted", None, None),
        ("billing_started", None, None),
        ("draft_created", "planned", "drafted"),
        ("finalized", "drafted", "finalized"),
        ("month_billed", None, None),
    ]
    assert {(each["actor"], each["run_id"]) for each in trail} == {("somebody@somewhere", result.run_id)}


def test_two_months_frozen_side_by_side_never_bill_the_same_late_usage(platform: Any, reason: Any) -> None:
    platform.accounts("user-0001")
    platform.calls("2025-03", ("user-0001", 100))
    platform.bill("2025-03")
    platform.calls("2025-03", ("user-0001", 42))
    platform.calls("2025-04", ("user-0001", 10))
    platform.calls("2025-05", ("user-0001", 20))
    for month in ("2025-04", "2025-05"):
        assert platform.run(month, ["raw_usage", "user_usage", "invoice_drafts"]).success
        platform.approve(month)

    assert platform.run("2025-04", ["stripe_invoices"]).success
    refused = platform.run("2025-05", ["stripe_invoices"])
    platform.bill("2025-05")

    assert "2025-04 was billed since 2025-05 was frozen" in reason(refused)
    assert [each[1] for each in lines_of(platform, "2025-04", "user-0001")] == [10, 42]
    assert [each[1] for each in lines_of(platform, "2025-05", "user-0001")] == [20]
