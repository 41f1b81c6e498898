"""Explain: the whole story of one user's bill, whatever became of it."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from spell_billing.cli import main
from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.proof.small_platform import APRIL, MARCH, MAY, SmallPlatform

ONE, TWO, FREE = "user-0001", "user-0002", "user-0003"


def steps(story: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    return [(each["action"], each.get("from_state"), each.get("to_state")) for each in story["history"]]


def must_add_up(story: dict[str, Any]) -> None:
    """The days are the frozen usage, and each bill's lines are its total."""
    usage = story["usage"]
    assert sum(day["calls"] for day in usage["days"]) == usage["calls"]
    assert sum(day["usage_cents"] for day in usage["days"]) == usage["usage_cents"]
    for bill in story["bills"]:
        assert sum(line["amount_cents"] for line in bill["lines"]) == bill["total_cents"]


def test_an_invoiced_user_s_story_goes_from_the_rows_to_the_requests(platform: SmallPlatform) -> None:
    platform.accounts(ONE, TWO)
    platform.calls(MARCH, (ONE, 100), (ONE, 20), day=3)
    platform.calls(MARCH, (ONE, 1), (TWO, 9), day=31)
    platform.bill(MARCH, run_id="run-of-march")

    story = platform.explain(MARCH, ONE)

    invoice = platform.standing()[0]
    assert (story["month"], story["user_id"]) == ("2025-03", ONE)
    assert story["answer"] == f"Invoice {invoice.id} of $1.21 (3 calls) is finalized."
    assert story["usage"] == {
        "version": "v0001",
        "calls": 3,
        "usage_cents": 121,
        "days": [
            {"day": "2025-03-03", "calls": 2, "usage_cents": 120},
            {"day": "2025-03-31", "calls": 1, "usage_cents": 1},
        ],
    }
    (bill,) = story["bills"]
    assert (bill["state"], bill["stripe_invoice_id"], bill["stripe_customer_id"]) == (
        "finalized",
        invoice.id,
        f"cus_{ONE}",
    )
    assert [line["description"] for line in bill["lines"]] == [
        "Spell Platform API Usage - March 2025 (3 calls, $1.21)"
    ]
    assert steps(story) == [
        ("drafted", None, "planned"),
        ("draft_created", "planned", "drafted"),
        ("finalized", "drafted", "finalized"),
    ]
    assert {(each["run_id"], each["actor"]) for each in story["history"]} == {("run-of-march", "tester")}
    assert all(each["at"].endswith("+00:00") for each in story["history"])
    must_add_up(story)


def test_each_step_names_the_request_that_made_it(billed: SmallPlatform) -> None:
    invoice_id = billed.bill_of(MARCH, ONE).stripe_invoice_id
    sent = {
        each.operation: each.request_id
        for each in billed.double.writes
        if f"spell:2025-03:{ONE}:" in str(each.idempotency_key) or f"/{invoice_id}/" in each.path
    }
    story = billed.explain(MARCH, ONE)
    _, created, finalized = story["history"]
    assert created["stripe_request_id"] == sent["invoices.create"]
    assert finalized["stripe_request_id"] == sent["invoices.finalize"]
    assert story["bills"][0]["stripe_request_id"] == sent["invoices.finalize"]
    assert created["stripe_invoice_id"] == finalized["stripe_invoice_id"] == invoice_id


def test_a_failed_user_s_story_says_why_and_what_to_do(light_platform: SmallPlatform) -> None:
    light_platform.source.accounts([{"user_id": ONE, "stripe_customer_id": "cus_nobody"}])
    light_platform.calls(MARCH, (ONE, 120))
    light_platform.bill(MARCH)
    story = light_platform.explain(MARCH, ONE)
    assert story["answer"].startswith("No invoice of $1.20: failed, unknown_customer. Stripe does not know")
    (bill,) = story["bills"]
    assert (bill["reason"], bill["stripe_invoice_id"]) == ("unknown_customer", None)
    assert "No such customer" in bill["why"]
    failed = story["history"][-1]
    assert (failed["action"], failed["to_state"]) == ("failed", "failed")
    assert "No such customer" in failed["detail"]
    assert failed["stripe_request_id"] == light_platform.double.writes[-1].request_id
    must_add_up(story)


def test_a_user_without_account_is_told_so(light_platform: SmallPlatform) -> None:
    light_platform.calls(MARCH, (ONE, 120))
    light_platform.bill(MARCH)
    story = light_platform.explain(MARCH, ONE)
    assert "no_billing_account" in story["answer"]
    assert "has no row in billing_accounts" in story["answer"]
    assert steps(story) == [("drafted", None, "failed")]


@pytest.mark.both_databases
def test_a_skipped_user_s_story_says_that_nothing_is_due(billed: SmallPlatform) -> None:
    story = billed.explain(MARCH, FREE)
    assert story["answer"] == "No invoice of $0.00: skipped, no_charge. Nothing is due for the month."
    assert story["usage"]["calls"] == 1
    must_add_up(story)


def test_a_planned_bill_waits_for_the_next_run(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE)
    light_platform.calls(MARCH, (ONE, 120))
    light_platform.draft(MARCH)
    answer = light_platform.explain(MARCH, ONE)["answer"]
    assert answer == "A bill of $1.20 is planned, not finalized yet: the next run sends it on."


def test_a_user_with_bills_of_other_months_had_no_usage_in_this_one(light_billed: SmallPlatform) -> None:
    light_billed.accounts("later")
    light_billed.calls(MARCH.next(), ("later", 120))
    light_billed.draft(MARCH.next())
    story = light_billed.explain(MARCH, "later")
    assert story["answer"] == "User later had no usage in 2025-03, so there is no bill."
    assert story["known"]


def test_a_misspelt_user_is_not_known(light_billed: SmallPlatform) -> None:
    story = light_billed.explain(MARCH, "user-0404")
    assert story["answer"] == (
        "Nothing is known of user user-0404: no bill of any month, no usage in 2025-03. Check the id."
    )
    assert not story["known"]
    assert (story["usage"]["days"], story["bills"], story["history"]) == ([], [], [])


def test_a_month_that_was_not_drafted_has_no_bills(light_billed: SmallPlatform) -> None:
    story = light_billed.explain(APRIL, ONE)
    assert (
        story["answer"]
        == "2025-04 was not drafted yet: there is no bill of anyone. See spell-billing preview."
    )
    assert story["usage"] == {"version": None, "calls": 0, "usage_cents": 0, "days": []}


@pytest.mark.both_databases
def test_a_voided_and_rebilled_user_s_story_has_both_generations(billed: SmallPlatform) -> None:
    billed.void(MARCH, ONE, "billed to the wrong project")
    void_request = billed.double.writes[-1].request_id
    waiting = billed.explain(MARCH, ONE)
    assert waiting["answer"].startswith("No invoice of $12.34: void, voided. The invoice was voided with")
    assert "billed to the wrong project" in waiting["answer"]
    billed.bill(MARCH, run_id="run-again")

    story = billed.explain(MARCH, ONE)

    first, second = story["bills"]
    assert (first["generation"], first["state"], first["reason"]) == (1, "void", "voided")
    assert (second["generation"], second["state"], second["run_id"]) == (2, "finalized", "run-again")
    assert str(second["stripe_invoice_id"]) in story["answer"]
    assert [(each["generation"], each["action"]) for each in story["history"]] == [
        (1, "drafted"),
        (1, "draft_created"),
        (1, "finalized"),
        (1, "void_requested"),
        (1, "voided"),
        (2, "drafted_again"),
        (2, "draft_created"),
        (2, "finalized"),
    ]
    assert story["history"][4]["stripe_request_id"] == void_request
    must_add_up(story)


def test_late_usage_and_credit_stand_in_the_lines(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE)
    light_platform.calls(MARCH, (ONE, -500))
    light_platform.bill(MARCH)
    carried = light_platform.explain(MARCH, ONE)
    assert carried["bills"][0]["carried_cents"] == 500
    assert "the credit is carried to the next invoice" in carried["answer"]
    light_platform.calls(MARCH, (ONE, 42))
    light_platform.calls(APRIL, (ONE, 1000))
    light_platform.bill(APRIL)
    story = light_platform.explain(APRIL, ONE)
    assert [(line["kind"], line["amount_cents"]) for line in story["bills"][0]["lines"]] == [
        ("usage", 1000),
        ("late_usage", 42),
        ("credit", -500),
    ]
    assert "$5.42" in story["answer"]
    assert story["usage"]["usage_cents"] == 1000
    must_add_up(story)


def test_a_user_with_late_usage_only_has_a_story_without_days(light_platform: SmallPlatform) -> None:
    light_platform.accounts(ONE, TWO)
    light_platform.calls(MARCH, (TWO, 1))
    light_platform.bill(MARCH)
    light_platform.calls(MARCH, (ONE, 60))
    light_platform.bill(APRIL)
    story = light_platform.explain(APRIL, ONE)
    assert story["usage"]["days"] == []
    assert [line["kind"] for line in story["bills"][0]["lines"]] == ["late_usage"]


def test_what_an_adopted_invoice_left_out_is_told(light_billed: SmallPlatform) -> None:
    light_billed.lose_the_ledger()
    light_billed.calls(MARCH, (ONE, 30))
    light_billed.bill(MARCH)
    (bill,) = light_billed.explain(MARCH, ONE)["bills"]
    assert (bill["unbilled_calls"], bill["unbilled_usage_cents"]) == (1, 30)
    adopted = light_billed.explain(MARCH, ONE)["history"][-1]
    assert (adopted["action"], adopted["from_state"], adopted["to_state"]) == (
        "adopted",
        "planned",
        "finalized",
    )
    assert adopted["detail"] == "Stripe billed 1234 cents of usage, frozen are 1264"


def test_late_usage_that_an_adopted_invoice_lacks_is_told(light_billed: SmallPlatform) -> None:
    light_billed.calls(APRIL, (ONE, 200))
    light_billed.bill(APRIL)
    light_billed.sql(
        "DELETE FROM ledger_invoices WHERE month = '2025-04'",
        "DELETE FROM ledger_months WHERE month = '2025-04'",
    )
    light_billed.calls(MARCH, (ONE, 42))
    light_billed.bill(APRIL)
    lines = light_billed.explain(APRIL, ONE)["bills"][0]["lines"]
    assert lines[-1] == {
        "kind": "unbilled",
        "description": "Left for a later invoice - March 2025 (1 calls, 42 cents)",
        "amount_cents": 0,
    }
    light_billed.bill(MAY)
    assert light_billed.lines(MAY, ONE) == [("adjustment", 42)]


def test_fractions_of_a_cent_are_told_exactly(
    make_source_tables: Callable[..., Any], double: StripeDouble, postgres_url: str, tmp_path: Path
) -> None:
    source = make_source_tables(postgres_url, cost_cents="numeric(12,4)")
    platform = SmallPlatform(postgres_url, source, double, tmp_path / "usage")
    platform.accounts(ONE)
    platform.calls(MARCH, (ONE, Decimal("60.1250")), (ONE, Decimal("0.3750")), day=2)
    platform.calls(MARCH, (ONE, Decimal("0.0001")), day=3)
    platform.bill(MARCH)
    story = platform.explain(MARCH, ONE)
    assert [day["usage_cents"] for day in story["usage"]["days"]] == [Decimal("60.5"), Decimal("0.0001")]
    assert story["usage"]["usage_cents"] == Decimal("60.5001")
    assert story["bills"][0]["total_cents"] == 61
    platform.must_agree(MARCH)


@pytest.mark.parametrize("user", [ONE, FREE, "user-0404"])
def test_the_text_tells_what_the_json_holds(
    light_billed: SmallPlatform, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", light_billed.url)
    monkeypatch.setenv("SPELL_BILLING_USAGE_STORE", str(light_billed.store_path))
    story = light_billed.explain(MARCH, user)
    text = CliRunner().invoke(main, ["explain", "--month", "2025-03", "--user", user])
    assert text.exit_code == (0 if story["known"] else 1), text.output
    assert text.output.startswith(story["answer"])
    for day in story["usage"]["days"]:
        assert day["day"] in text.output
    for bill in story["bills"]:
        assert all(line["description"] in text.output for line in bill["lines"])
    for entry in story["history"]:
        assert entry["at"] in text.output
        assert str(entry.get("stripe_request_id", "")) in text.output
        assert entry["run_id"] in text.output
