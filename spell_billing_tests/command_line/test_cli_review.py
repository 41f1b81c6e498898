"""A month that contradicts the ledger's past, through the commands: held, approved, sent as approved."""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from spell_billing.stripe_double.state_file import load_account, save_account

MARCH, APRIL = "2025-03", "2025-04"
USERS = [f"user-{number:02}" for number in range(20)]


def month_of(shop: Any, month: str, users: Sequence[str] = USERS, cents: int = 1_000) -> None:
    shop.calls(month, *((user, cents) for user in users))


@pytest.fixture(scope="module")
def billed(make_shop: Callable[..., Any]) -> Any:
    """Give a shop on SQLite that billed March for twenty users, 10.00 each: tests bill copies of it."""
    return with_march(make_shop("sqlite", ready=True))


@pytest.fixture
def open_shop(make_shop: Callable[..., Any], billed: Any, tmp_path: Path) -> Callable[[str], Any]:
    """Give a function that makes a shop that billed March for twenty users, 10.00 each."""

    def make(kind: str) -> Any:
        if kind != "sqlite":
            return with_march(make_shop(kind, ready=True))
        shop = make_shop("sqlite")
        shutil.copytree(billed.home, shop.home, dirs_exist_ok=True)
        save_account(tmp_path / "account", billed.double.state)
        load_account(tmp_path / "account", shop.double.state)
        return shop

    return make


def with_march(shop: Any) -> Any:
    """Bill March."""
    shop.accounts(*USERS)
    month_of(shop, MARCH)
    assert shop.run("bill", "--month", MARCH).returncode == 0
    return shop


def finalized(shop: Any) -> int:
    return sum(1 for invoice in shop.double.invoices() if invoice.status != "draft")


def bill(shop: Any, month: str, *, code: int, **changes: str | None) -> Any:
    done = shop.run("bill", "--month", month, **changes)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_deleted_rows_of_a_billed_month_are_held_and_go_out_when_a_person_approves_exactly_that(
    open_shop: Callable[[str], Any], kind: str
) -> None:
    shop = open_shop(kind)
    month_of(shop, APRIL)
    shop.execute("DELETE FROM usage_counters WHERE created_at < '2025-04-01'")
    requests = len(shop.double.requests)

    held = bill(shop, APRIL, code=3)

    assert len(shop.double.requests) == requests
    assert "2025-03 is no longer what was billed: 20 of 20 users have lost rows (100%)" in held.stdout
    assert "$200.00 of $200.00 is gone (100%)" in held.stdout
    assert f"spell-billing approve --month {APRIL} --reason" in held.stdout
    assert held.stderr.count("Error") == 0
    assert bill(shop, APRIL, code=3).stdout.count("is in review") == 1
    assert len(shop.double.requests) == requests

    # Rows that come after the approval are other drafts: it does not hold for them.
    assert shop.run("approve", "--month", APRIL, "--reason", "we know").returncode == 0
    shop.calls(APRIL, (USERS[0], 5_000))
    bill(shop, APRIL, code=3)
    assert len(shop.double.requests) == requests

    approved = shop.run("approve", "--month", APRIL, "--reason", "retention, agreed with finance")
    assert approved.returncode == 0, approved.stderr
    assert "users have lost rows" in approved.stdout
    bill(shop, APRIL, code=0)
    assert finalized(shop) == 21  # April nets to zero but for the one with more usage
    assert "is not in review" in shop.run("approve", "--month", APRIL, "--reason", "again").stderr


def test_an_empty_copy_of_the_usage_database_is_held(
    open_shop: Callable[[str], Any], make_shop: Callable[..., Any]
) -> None:
    shop, copy = open_shop("sqlite"), make_shop("sqlite")
    month_of(shop, APRIL)
    requests = len(shop.double.requests)

    held = bill(shop, APRIL, code=3, USAGE_DATABASE_URL=copy.url)

    assert "2025-04 has no row of usage; 2025-03 had 20" in held.stdout
    assert "2025-03 is no longer what was billed" in held.stdout
    assert len(shop.double.requests) == requests
    bill(shop, APRIL, code=0)  # with the right one
    assert finalized(shop) == 40


def test_a_month_without_a_row_after_one_with_rows_is_held(open_shop: Callable[[str], Any]) -> None:
    shop = open_shop("sqlite")

    assert "2025-04 has no row of usage" in bill(shop, APRIL, code=3).stdout
    assert shop.run("approve", "--month", APRIL, "--reason", "we were closed").returncode == 0
    bill(shop, APRIL, code=0)
    bill(shop, "2025-05", code=0)  # after one without rows


def test_a_month_far_from_its_predecessors_is_held_and_a_small_one_is_not(
    open_shop: Callable[[str], Any],
) -> None:
    shop = open_shop("sqlite")
    month_of(shop, APRIL, cents=4_000)

    held = bill(shop, APRIL, code=3)
    assert "2025-04 is far from the billed month before: $800.00 where $200.00 is usual" in held.stdout

    bill(shop, APRIL, code=0, REVIEW_MONTH_PERCENT="50,400")
    month_of(shop, "2025-05", USERS[:10], cents=4_000)  # -20 % of the mean of 800 and 200
    bill(shop, "2025-05", code=0)
    month_of(shop, "2025-06", USERS[:1], cents=28_000)
    few = bill(shop, "2025-06", code=3)
    assert "users 1 where 17 are usual" in few.stdout
    bill(shop, "2025-06", code=0, REVIEW_FLOOR_CENTS="20000")


def test_users_who_moved_are_a_finding_with_the_command(open_shop: Callable[[str], Any]) -> None:
    shop = open_shop("sqlite")
    month_of(shop, APRIL)
    shop.accounts("it's new")
    shop.execute(f"UPDATE usage_counters SET user_id = 'it''s new' WHERE user_id = '{USERS[3]}'")

    held = bill(shop, APRIL, code=3)

    assert "spell-billing move-user --from user-03 --to 'it'\"'\"'s new' --reason" in held.stdout
    assert "is not what was billed" not in held.stdout


def test_a_month_before_all_that_were_billed_is_held_unless_one_backfill_bills_both(
    open_shop: Callable[[str], Any],
) -> None:
    shop = open_shop("sqlite")
    month_of(shop, "2025-02")
    assert bill(shop, "2025-02", code=0), "billed within minutes of March, as by a backfill of both"
    month_of(shop, "2025-01")
    shop.execute("UPDATE ledger_months SET billing_started_at = '2025-04-02 00:00:00'")
    requests = len(shop.double.requests)

    held = bill(shop, "2025-01", code=3)

    assert "2025-01 is before the first month that was billed here: 2025-02, on 2025-04-02." in held.stdout
    assert "It would charge 20 users $200.00." in held.stdout
    assert "SPELL_BILLING_FIRST_MONTH=2025-02" in held.stdout
    assert len(shop.double.requests) == requests
    assert bill(shop, APRIL, code=3).stdout.count("is before the first month") == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_user_far_from_the_own_past_is_held_and_the_others_are_billed(
    open_shop: Callable[[str], Any], kind: str
) -> None:
    shop = open_shop(kind)
    month_of(shop, APRIL, USERS[1:])
    shop.calls(APRIL, (USERS[0], 60_000))
    rules = {"REVIEW_MONTH_PERCENT": "50,1000"}

    assert "not_plausible" in bill(shop, APRIL, code=3, **rules).stdout
    assert finalized(shop) == 39
    (of_user,) = [each for each in shop.json("invoices", "--month", APRIL) if each["user_id"] == USERS[0]]
    assert of_user["state"] == "held"
    assert "$600.00 is more than 10 times the usual $10.00" in str(of_user)
    bill(shop, APRIL, code=3, **rules)
    assert finalized(shop) == 39

    # Held by the rule or by a person: one word sends it.
    assert shop.run("hold", "--month", APRIL, "--user", USERS[0], "--reason", "asked").returncode == 0
    bill(shop, APRIL, code=3, **rules)
    released = shop.run("release", "--month", APRIL, "--user", USERS[0])
    assert released.returncode == 0, released.stderr
    bill(shop, APRIL, code=0, **rules)
    assert finalized(shop) == 40
    refused = shop.run("hold", "--month", APRIL, "--user", USERS[0])
    assert refused.returncode == 1
    assert "spell-billing void" in refused.stderr
    refused = shop.run("release", "--month", APRIL, "--user", USERS[0])
    assert refused.returncode == 1
    assert "is not held: it is finalized" in refused.stderr


def test_everybody_is_held_until_all_are_released(open_shop: Callable[[str], Any]) -> None:
    shop = open_shop("sqlite")
    month_of(shop, APRIL, cents=4_000)
    bill(shop, APRIL, code=3)  # in review, so drafted and not sent
    said = shop.run("hold", "--month", APRIL, "--all", "--reason", "prices").stdout
    assert "20 bills" in said
    assert f"To send them: spell-billing release --month {APRIL} --all\n" in said
    assert shop.run("approve", "--month", APRIL, "--reason", "grown").returncode == 0

    assert "held_by_person" in bill(shop, APRIL, code=3).stdout
    assert finalized(shop) == 20
    assert "20 bills" in shop.run("release", "--month", APRIL, "--all").stdout
    bill(shop, APRIL, code=0)
    assert finalized(shop) == 40
    assert "No bill of 2025-04 is held" in shop.run("release", "--month", APRIL, "--all").stderr


def test_releasing_all_takes_back_the_hold_of_all_and_names_who_is_held_for_a_reason_of_the_own(
    open_shop: Callable[[str], Any],
) -> None:
    shop = open_shop("sqlite")
    month_of(shop, APRIL, USERS[1:])
    shop.calls(APRIL, (USERS[0], 60_000))
    rules = {"REVIEW_MONTH_PERCENT": "50,1000", "REVIEW_FLOOR_CENTS": "0"}
    bill(shop, APRIL, code=3, REVIEW_MONTH_PERCENT="1,1", REVIEW_FLOOR_CENTS="0")  # drafted, and not sent
    assert shop.run("hold", "--month", APRIL, "--user", USERS[1], "--reason", "dispute").returncode == 0

    held = shop.run("hold", "--month", APRIL, "--all", "--reason", "prices").stdout
    assert "18 bills of 2025-04 are held" in held
    own = "user-00 (not_plausible), user-01 (held_by_person)"
    assert f"2 bills were held before, and keep their reason: {own}.\n" in held
    bill(shop, APRIL, code=3, **rules)
    assert finalized(shop) == 20
    released = shop.run("release", "--month", APRIL, "--all").stdout
    assert "18 bills of 2025-04 are released." in released
    assert f"2 bills stay held for a reason of their own: {own}.\n" in released
    assert f"spell-billing release --month {APRIL} --user ID" in released
    bill(shop, APRIL, code=3, **rules)
    assert finalized(shop) == 38

    # No hold of all is in force: it means what the rules hold.
    released = shop.run("release", "--month", APRIL, "--all").stdout
    assert "1 bill of 2025-04 is released." in released
    assert "1 bill stays held for a reason of its own: user-01 (held_by_person).\n" in released
    bill(shop, APRIL, code=3, **rules)
    assert finalized(shop) == 39
    refused = shop.run("release", "--month", APRIL, "--all")
    assert refused.returncode == 1
    assert "Held for a reason of their own: user-01 (held_by_person)." in refused.stderr


def test_who_decided_what_is_in_the_audit_trail(open_shop: Callable[[str], Any]) -> None:
    shop = open_shop("sqlite")
    month_of(shop, APRIL, cents=4_000)
    bill(shop, APRIL, code=3)
    shop.run("hold", "--month", APRIL, "--user", USERS[1], "--reason", "disputed")
    shop.run("approve", "--month", APRIL, "--reason", "grown")
    shop.run("release", "--month", APRIL, "--user", USERS[1], "--reason", "settled by phone")

    with sqlite3.connect(Path(shop.home) / "shop.db") as connection:
        rows = connection.execute(
            "SELECT action, user_id, from_state, to_state, detail, actor FROM ledger_audit "
            "WHERE action IN ('held', 'approved', 'released') ORDER BY id"
        ).fetchall()

    assert [row[:5] for row in rows] == [
        ("held", USERS[1], "planned", "held", "disputed"),
        ("approved", None, None, None, "grown"),
        ("released", USERS[1], "held", "planned", "settled by phone"),
    ]
    assert all("@" in row[5] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("approve", "--reason", "x"), "2025-05 has no drafts that were reviewed"),
        (("hold", "--all"), "2025-05 has no drafts"),
        (("release", "--user", "a"), "2025-05 has no drafts"),
    ],
)
def test_a_month_without_drafts_is_refused_in_one_sentence(
    billed: Any, arguments: Sequence[str], words: str
) -> None:
    name, *rest = arguments
    refused = billed.run(name, "--month", "2025-05", *rest)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: {words}")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("--user", "a", "--all")])
@pytest.mark.parametrize("command", ["hold", "release"])
def test_whom_a_hold_is_about_must_be_said(
    make_shop: Callable[..., Any], command: str, arguments: Sequence[str]
) -> None:
    refused = make_shop("sqlite").run(command, "--month", APRIL, *arguments)

    assert refused.returncode == 2
    assert "Give either --user or --all." in refused.stderr


def test_where_two_people_must_approve_the_same_one_twice_counts_once_and_other_drafts_begin_anew(
    open_shop: Callable[[str], Any],
) -> None:
    shop = open_shop("sqlite")
    month_of(shop, APRIL, cents=4_000)
    two = {"APPROVALS": "2"}
    bill(shop, APRIL, code=3, **two)

    def approve(name: str) -> Any:
        # What counts is the setting of the run that drafted the month, not that of who approves.
        return shop.run("approve", "--month", APRIL, "--reason", "agreed", LOGNAME=name)

    first = approve("anna")
    assert first.returncode == 3
    assert "2025-04 needs the approval of 2 people. Approved by: anna@" in first.stdout
    assert approve("Anna").returncode == 3
    status = bill(shop, APRIL, code=3, **two).stdout
    assert "It needs the approval of 2 people; approved by: anna@" in status
    reconciled = shop.run("reconcile", "--month", APRIL).stdout
    assert "every user: in_review; expected an approval of the drafts" in reconciled
    assert "not_invoiced" not in reconciled
    shop.calls(APRIL, (USERS[0], 5_000))
    assert "approved by: nobody yet." in bill(shop, APRIL, code=3, **two).stdout

    assert (approve("ben").returncode, approve("anna").returncode) == (3, 0)
    assert "Approved" not in bill(shop, APRIL, code=0, **two).stdout
    assert finalized(shop) == 40
