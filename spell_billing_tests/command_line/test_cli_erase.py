"""`erase-user` on the command line: refusals, a kill at every step, and the months after."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LEAVER = "leaver@example.org"
_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, make_shop: Callable[[str], Any]) -> Any:
    """Give a shop that has billed a month for a user who then leaves, and for another."""
    shop = make_shop(request.param)
    shop.accounts(LEAVER, "stays")
    shop.calls("2025-03", (LEAVER, 1000), (LEAVER, 234), ("stays", 500))
    assert shop.run("init-db").returncode == 0
    billed = shop.run("bill", "--month", "2025-03")
    assert billed.returncode == 0, billed.stderr
    return shop


def erase(shop: Any, user: str = LEAVER) -> "subprocess.CompletedProcess[str]":
    done: subprocess.CompletedProcess[str] = shop.run("erase-user", user)
    return done


def test_a_user_whose_invoice_is_unpaid_or_whom_the_platform_has_is_refused_until_that_is_over(
    shop: Any,
) -> None:
    refused = erase(shop, "nobody")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: User nobody has no bill and no frozen usage. Check the id")
    if shop.json("invoices", "--month", "2025-03")[0]["state"] == "finalized":
        refused = erase(shop)
        assert refused.returncode == 1
        assert f"User {LEAVER} cannot be erased yet: invoice in_" in refused.stderr
    assert shop.run("bill", "--month", "2025-03", "--verify").returncode == 0
    refused = erase(shop)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: The platform still has an account of user {LEAVER}, or calls")


def test_an_erasure_that_is_killed_at_every_step_is_completed_and_the_books_agree(shop: Any) -> None:
    shop.execute("DELETE FROM usage_counters WHERE user_id = :user", [{"user": LEAVER}])
    shop.execute("DELETE FROM billing_accounts WHERE user_id = :user", [{"user": LEAVER}])

    done = subprocess.run(
        [sys.executable, "-m", "spell_billing_tests.command_line.killed_erasures", LEAVER],
        cwd=_ROOT,
        env={**os.environ, **shop.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert int(done.stdout.splitlines()[-1]) > 6, done.stdout + done.stderr
    # The last was killed after all was done, or ended itself.
    again = erase(shop)
    assert again.returncode == 1
    assert again.stderr.endswith("Of a user who was erased nothing is left to do.\n")
    bills = {bill["user_id"]: bill["total_cents"] for bill in shop.json("invoices", "--month", "2025-03")}
    (pseudonym,) = bills.keys() - {"stays"}
    assert re.fullmatch("erased-[0-9a-f]{12}", pseudonym)
    assert bills == {pseudonym: 1234, "stays": 500}
    assert shop.run("reconcile", "--month", "2025-03").returncode == 0
    assert all(LEAVER not in str(invoice.metadata) for invoice in shop.double.invoices())


def test_the_next_month_bills_who_stayed_and_nothing_else(shop: Any) -> None:
    shop.calls("2025-04", ("stays", 600))
    for arguments in (("2025-03", "--verify"), ("2025-04",)):
        billed = shop.run("bill", "--month", *arguments)
        assert billed.returncode == 0, billed.stdout + billed.stderr
    assert sorted(invoice.total_cents for invoice in shop.double.invoices()) == [500, 600, 1234]
    for month in ("2025-03", "2025-04"):
        assert shop.run("reconcile", "--month", month).returncode == 0
    status = json.loads(shop.run("status", "--month", "2025-04", "--json").stdout)
    assert status["users"] == 1


def test_an_erasure_that_nobody_kills_says_what_was_done(shop: Any) -> None:
    assert shop.run("bill", "--month", "2025-04", "--verify").returncode == 0
    gone = "DELETE FROM {} WHERE user_id = 'stays'"
    shop.execute(gone.format("usage_counters"))
    shop.execute(gone.format("billing_accounts"))
    done = erase(shop, "stays")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"User stays is erased-\w{12} from now on: in the ledger, on \d invoices at Stripe and in \d frozen "
        r"versions. No amount has changed.\n",
        done.stdout,
    )
    for month in ("2025-03", "2025-04"):
        assert shop.run("reconcile", "--month", month).returncode == 0
