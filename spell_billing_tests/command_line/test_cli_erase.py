"""`erase-user` on the command line: refusals, a kill at every step, and the months after."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

LEAVER = "leaver@example.org"
_ROOT = Path(__file__).parents[2]


@dataclass
class Story:
    """What a shop's commands said, in the order in which they ran."""

    shop: Any
    said: dict[str, Any] = field(default_factory=dict)

    def run(self, name: str, *arguments: str) -> None:
        self.said[name] = self.shop.run(*arguments)

    def reconcile(self, name: str, *months: str) -> None:
        found = [self.shop.run("reconcile", "--month", month) for month in months]
        self.said[name] = [each.stdout + each.stderr for each in found if each.returncode]

    def leave(self, user: str) -> None:
        """Do what the platform does when a user leaves for good."""
        for table in ("usage_counters", "billing_accounts"):
            self.shop.execute(f"DELETE FROM {table} WHERE user_id = :user", [{"user": user}])

    def kill_at_every_step(self, user: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "spell_billing_tests.command_line.killed_erasures", user],
            cwd=_ROOT,
            env={**os.environ, **self.shop.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def story(request: pytest.FixtureRequest, make_shop: Callable[..., Any]) -> Story:
    """Bill a month for two users; one leaves, is erased by runs that are killed; then the other follows."""
    shop = make_shop(request.param, ready=True)
    shop.accounts(LEAVER, "stays")
    shop.calls("2025-03", (LEAVER, 1000), (LEAVER, 234), ("stays", 500))
    story = Story(shop)
    story.run("bill", "bill", "--month", "2025-03")
    story.run("unknown", "erase-user", "nobody")
    story.run("unpaid", "erase-user", LEAVER)
    story.run("bill paid", "bill", "--month", "2025-03", "--verify")
    story.run("at the platform", "erase-user", LEAVER)
    story.leave(LEAVER)
    story.said["killed"] = story.kill_at_every_step(LEAVER)
    story.run("again", "erase-user", LEAVER)
    story.said["bills"] = shop.json("invoices", "--month", "2025-03")
    story.said["metadata"] = [str(invoice.metadata) for invoice in shop.double.invoices()]
    story.reconcile("differences", "2025-03")
    shop.calls("2025-04", ("stays", 600))
    story.run("bill again", "bill", "--month", "2025-03", "--verify")
    story.run("next month", "bill", "--month", "2025-04")
    story.run("next month paid", "bill", "--month", "2025-04", "--verify")
    story.said["charged"] = sorted(invoice.total_cents for invoice in shop.double.invoices())
    story.reconcile("later differences", "2025-03", "2025-04")
    for month in ("2025-03", "2025-04"):
        story.run(f"export {month}", "export", "--month", month)
    story.leave("stays")
    story.run("unharmed", "erase-user", "stays")
    story.reconcile("last differences", "2025-03", "2025-04")
    return story


def test_an_unknown_user_is_refused(story: Story) -> None:
    assert story.said["unknown"].returncode == 1
    refused = "Error: User nobody has no bill and no frozen usage. Check the id"
    assert story.said["unknown"].stderr.startswith(refused)


def test_a_user_with_an_unpaid_invoice_is_refused(story: Story) -> None:
    assert story.said["bill"].returncode == story.said["bill paid"].returncode == 0
    assert story.said["unpaid"].returncode == 1
    assert re.search(
        rf"User {LEAVER} cannot be erased yet: invoice in_\w+ for 2025-03 is not paid\. Close this first",
        story.said["unpaid"].stderr,
    )


def test_a_user_whom_the_platform_still_has_is_refused(story: Story) -> None:
    assert story.said["at the platform"].returncode == 1
    refused = f"Error: The platform still has an account of user {LEAVER}, or calls since "
    assert story.said["at the platform"].stderr.startswith(refused)


def test_an_erasure_that_is_killed_at_every_step_is_completed_and_the_books_agree(story: Story) -> None:
    killed = story.said["killed"]
    assert killed.returncode == 0, killed.stderr
    assert int(killed.stdout.splitlines()[-1]) > 6
    bills = {bill["user_id"]: bill["total_cents"] for bill in story.said["bills"]}
    (pseudonym,) = bills.keys() - {"stays"}
    assert re.fullmatch("erased-[0-9a-f]{12}", pseudonym)
    assert bills == {pseudonym: 1234, "stays": 500}
    assert all(LEAVER not in each for each in story.said["metadata"])
    assert story.said["differences"] == []


def test_of_an_erased_user_nothing_is_left_to_do(story: Story) -> None:
    assert story.said["again"].returncode == 1
    assert story.said["again"].stderr.endswith("For a user who was erased, nothing is left to do.\n")


def test_the_next_month_bills_who_stayed_and_nothing_else(story: Story) -> None:
    for name in ("bill again", "next month", "next month paid"):
        assert story.said[name].returncode == 0, story.said[name].stdout + story.said[name].stderr
    assert story.said["charged"] == [500, 600, 1234]
    assert story.said["later differences"] == []


def test_an_erasure_says_what_was_done(story: Story) -> None:
    assert story.said["unharmed"].returncode == 0, story.said["unharmed"].stderr
    assert re.fullmatch(
        r"User stays is erased-\w{12} from now on: in the ledger, on 2 invoices at Stripe and in 2 frozen "
        r"versions. No amount has changed.\n"
        r"The files for finance named the user, and were removed: `export` 2025-03, 2025-04 again.\n",
        story.said["unharmed"].stdout,
    )
    assert story.said["export 2025-04"].returncode == 0
    assert not [
        *(story.shop.home / "exports").rglob("*.csv"),
        *(story.shop.home / "exports").rglob("*.parquet"),
    ]
    assert story.said["last differences"] == []
