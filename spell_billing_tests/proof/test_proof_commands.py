"""The commands that prove and mend a month: exit codes, what they print, and their JSON."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from spell_billing.cli import main
from spell_billing_tests.proof.small_platform import APRIL, KEY, MARCH, SmallPlatform

ONE, TWO, FREE = "user-0001", "user-0002", "user-0003"
Command = Callable[..., Result]


@pytest.fixture
def command(light_billed: SmallPlatform, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Give a function that runs `spell-billing` in this process, with the platform's settings."""
    monkeypatch.setenv("DATABASE_URL", light_billed.url)
    monkeypatch.setenv("SPELL_BILLING_USAGE_STORE", str(light_billed.store_path))
    monkeypatch.setenv("STRIPE_API_KEY", KEY)
    monkeypatch.setenv("STRIPE_API_BASE", light_billed.double.base_url)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, list(words))

    return run


def test_reconcile_ends_with_0_when_all_agree(command: Command) -> None:
    result = command("reconcile", "--month", "2025-03")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "Frozen  3 users, 4 calls, 1734 cents of usage",
        "Ledger  2 invoices, $17.34",
        "Stripe  2 invoices, $17.34",
        "Money   $0.00 kept: $0.00 received, $0.00 refunded, $0.00 disputed; $17.34 due",
        "All four agree to the cent.",
    ]


def test_reconcile_ends_with_3_and_names_users_and_remedies(
    light_billed: SmallPlatform, command: Command
) -> None:
    light_billed.sql("UPDATE ledger_invoices SET currency = 'eur' WHERE user_id = 'user-0001'")
    text = command("reconcile", "--month", "2025-03")
    data = command("reconcile", "--month", "2025-03", "--json")
    assert (text.exit_code, data.exit_code) == (3, 3)
    invoice_id = light_billed.bill_of(MARCH, ONE).stripe_invoice_id
    assert f"{ONE}, {invoice_id}: currency_differs; expected eur, found usd" in text.output
    assert text.output.splitlines()[-1] == "1 finding."
    story = json.loads(data.output)
    assert story["clean"] is False
    assert story["findings"] == [
        {
            "kind": "currency_differs",
            "user_id": ONE,
            "stripe_invoice_id": invoice_id,
            "expected": "eur",
            "found": "usd",
            "remedy": "Compare it with `explain`; void it and bill again if it is wrong.",
        }
    ]
    assert story["stripe"] == {"invoices": 2, "total_cents": 1734, "by_currency": {"usd": 1734}}
    assert story["ledger"] == {
        "invoices": 2,
        "total_cents": 1734,
        "by_currency": {"eur": 1234, "usd": 500},
        "tax_cents": 0,
        "discount_cents": 0,
    }


def test_reconcile_ends_with_1_when_it_could_not_compare(
    light_billed: SmallPlatform, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    undrafted = command("reconcile", "--month", "2025-04")
    assert undrafted.exit_code == 1
    assert "2025-04 has no drafts" in undrafted.stderr
    monkeypatch.setenv("SPELL_BILLING_USAGE_STORE", str(light_billed.store_path / "elsewhere"))
    assert command("reconcile", "--month", "2025-03").exit_code == 1
    monkeypatch.setenv("SPELL_BILLING_USAGE_STORE", str(light_billed.store_path))
    monkeypatch.setenv("STRIPE_API_KEY", "sk_wrong")
    refused = command("reconcile", "--month", "2025-03")
    assert refused.exit_code == 1
    assert "Stripe refuses the account" in refused.stderr
    assert "sk_wrong" not in refused.output
    monkeypatch.delenv("STRIPE_API_KEY")
    assert "STRIPE_API_KEY is not set" in command("reconcile", "--month", "2025-03").stderr


def test_void_says_what_it_did_and_what_comes_next(light_billed: SmallPlatform, command: Command) -> None:
    invoice_id = light_billed.bill_of(MARCH, ONE).stripe_invoice_id
    done = command("void", "--month", "2025-03", "--user", ONE, "--reason", "wrong price")
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        f"Invoice {invoice_id} of user {ONE} for 2025-03 is void.",
        "The next bill charges what the rows say by then. If they are wrong, correct them first.",
        "To bill again: spell-billing bill --month 2025-03",
    ]
    entry = light_billed.trail(MARCH, ONE)[-1]
    assert entry["detail"] == "to be billed again: wrong price"
    assert "@" in entry["actor"]
    status = json.loads(command("status", "--month", "2025-03", "--json").output)
    assert (status["state"], status["void"], status["invoiced"]) == ("partial", 1, 1)
    good = command("void", "--month", "2025-03", "--user", TWO, "--reason", "goodwill", "--for-good")
    assert len(good.output.splitlines()) == 1


def test_void_names_goodwill_that_the_next_invoice_charges_again(
    light_billed: SmallPlatform, command: Command
) -> None:
    light_billed.credit(MARCH, ONE, 300, "outage")
    done = command("void", "--month", "2025-03", "--user", ONE, "--reason", "wrong price")
    assert done.output.splitlines()[1] == (
        f"$3.00 had been given back of the invoice of user {ONE}, and the next one charges it again. "
        "If it was goodwill, give it once more when that is sent: spell-billing credit --month 2025-03 "
        f"--user {ONE} --cents 300 --reason ..."
    )

    light_billed.bill(MARCH)
    again = command(*("credit", "--month", "2025-03", "--user", ONE, "--cents", "300", "--reason", "outage"))

    assert again.exit_code == 0
    assert "Nothing was done" not in again.output
    sent = light_billed.bill_of(MARCH, ONE).stripe_invoice_id
    (note,) = [each for each in light_billed.double.state.credit_notes if each.invoice == sent]
    assert note.amount_cents == 300
    light_billed.must_agree(MARCH)
    light_billed.credit(MARCH, TWO, 100, "outage")
    good = command("void", "--month", "2025-03", "--user", TWO, "--reason", "left us", "--for-good")
    assert len(good.output.splitlines()) == 1


def test_void_refuses_with_1_and_the_remedy(light_billed: SmallPlatform, command: Command) -> None:
    light_billed.double.advance()
    paid = command("void", "--month", "2025-03", "--user", ONE, "--reason", "wrong price")
    assert paid.exit_code == 1
    assert "Give it back: spell-billing credit --month 2025-03 --user user-0001 --all" in paid.stderr
    assert command("void", "--month", "2025-03", "--user", ONE, "--reason", " ").exit_code == 2
    assert command("void", "--month", "2025-03", "--user", ONE).exit_code == 2


def test_explain_in_json_is_the_story(light_billed: SmallPlatform, command: Command) -> None:
    told = command("explain", "--month", "2025-03", "--user", ONE, "--json")
    assert told.exit_code == 0, repr(told.exception)
    story = json.loads(told.output)
    same = light_billed.explain(MARCH, ONE)
    assert story.keys() == same.keys()
    assert all(story[name] == same[name] for name in ("answer", "usage", "history"))
    assert story["bills"][0]["lines"] == same["bills"][0]["lines"]
    unknown = command("explain", "--month", "2025-04", "--user", ONE)
    assert (unknown.exit_code, unknown.output) == (
        0,
        "2025-04 was not drafted yet: there is no bill of anyone. See spell-billing preview.\n",
    )


def test_explain_sets_each_bill_apart_by_an_empty_line(command: Command) -> None:
    told = command("explain", "--month", "2025-03", "--user", ONE).output

    blank, heading = told.splitlines()[1:3]
    assert blank == ""
    assert heading.startswith("Bill, generation 1: ")
    assert "\\n" not in told


def test_status_tells_where_a_month_stands(command: Command) -> None:
    status = json.loads(command("status", "--month", "2025-03", "--json").output)
    expected: dict[str, Any] = {
        "state": "billed",
        "users": 3,
        "calls": 4,
        "usage_cents": 1734,
        "total_cents": 1734,
        "invoiced": 2,
        "skipped": 1,
        "failed": 0,
        "invoiced_cents": 1734,
        "uninvoiced_cents": 0,
    }
    assert {name: status[name] for name in expected} == expected
    months = json.loads(command("status", "--json").output)
    assert [each["month"] for each in months[:2]] == ["2025-03", "2025-04"]
    assert [each["state"] for each in months[:2]] == ["billed", "unbilled"]
    assert months[-1]["state"] == "open"


def test_invoices_lists_every_bill(light_billed: SmallPlatform, command: Command) -> None:
    rows = json.loads(command("invoices", "--month", "2025-03", "--json").output)
    assert [(row["user_id"], row["state"], row["total_cents"]) for row in rows] == [
        (ONE, "finalized", 1234),
        (TWO, "finalized", 500),
        (FREE, "skipped", 0),
    ]
    text = command("invoices", "--month", "2025-03").output
    assert str(light_billed.bill_of(MARCH, ONE).stripe_invoice_id) in text
    assert "no_charge" in text


def test_preview_stores_nothing_and_asks_nobody(
    light_billed: SmallPlatform, command: Command, tmp_path: Path
) -> None:
    light_billed.calls(APRIL, (ONE, 700))
    light_billed.calls(MARCH, (ONE, 30), (TWO, 1))
    requests = len(light_billed.double.requests)
    nowhere = command("preview", "--month", "2025-04", "--csv", str(tmp_path / "none" / "drafts.csv"))
    assert nowhere.exit_code == 1
    assert f"Error: {tmp_path / 'none' / 'drafts.csv'} cannot be written to: " in nowhere.output
    file = tmp_path / "drafts.csv"
    result = command("preview", "--month", "2025-04", "--json", "--csv", str(file))
    assert result.exit_code == 0, result.output
    assert [(row["user"], row["total_cents"]) for row in json.loads(result.output)] == [(ONE, 730), (TWO, 1)]
    with file.open(encoding="utf-8", newline="") as lines:
        assert [row["total_cents"] for row in csv.DictReader(lines)] == ["730", "1"]
    assert "Nothing was sent to Stripe." in command("preview", "--month", "2025-04").output
    assert (
        "2025 is billed: its bills are shown as they are" in command("preview", "--month", "2025-03").output
    )
    assert len(light_billed.double.requests) == requests
    with light_billed.ledger() as ledger:
        assert ledger.month(APRIL) is None
    assert light_billed.store.versions(APRIL) == []
    light_billed.bill(APRIL)
    assert [light_billed.bill_of(APRIL, user).total_cents for user in (ONE, TWO)] == [730, 1]
