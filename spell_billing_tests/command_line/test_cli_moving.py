"""Billing moves over from another service: the first month is billed once, as the docs say how."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
MARCH, APRIL = "2025-03", "2025-04"
OLD = """user_id,amount_cents,stripe_invoice_id,currency
ada,1000,in_old_1,usd
ben,450,in_old_2,usd
cem,300,in_old_3,USD
gone,70,in_old_4,usd
"""


def documented(after: str) -> list[str]:
    """Give the lines of the first block of commands after a text in docs/operations.md."""
    text = DOCS.read_text()
    (block,) = re.findall(r"```sh\n(.+?)```", text[text.index(after) :], re.DOTALL)[:1]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def run(shop: Any, line: str) -> Any:
    """Run a documented line in the shop's home, with its month in place of the documented one."""
    words = shlex.split(line.replace("2026-10", MARCH))
    setting = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    arguments = words[words.index("spell-billing") + 1 :]
    return shop.run(*arguments, **setting)


@pytest.fixture
def shop(make_shop: Callable[[str], Any]) -> Any:
    opened = make_shop("sqlite")
    assert opened.run("init-db").returncode == 0
    return opened


def test_the_first_month_is_billed_once_where_the_old_service_sent_some_of_it(shop: Any) -> None:
    shop.accounts("ada", "ben", "new")
    shop.calls(MARCH, ("ada", 1000), ("ben", 500), ("cem", 300), ("new", 90))
    file = shop.home / "old.csv"
    file.write_text(OLD, encoding="utf-8-sig")

    compared = shop.run("preview", "--month", MARCH, "--against", str(file))
    rows = {row["user"]: row for row in shop.json("preview", "--month", MARCH, "--against", str(file))}

    assert compared.returncode == 0, compared.stderr
    assert {user: (row["outcome"], row["by_cents"]) for user, row in rows.items()} == {
        "ada": ("same", 0),
        "ben": ("different", 50),
        "cem": ("missing", -300),
        "gone": ("missing", -70),
        "new": ("extra", 90),
    }
    assert (rows["cem"]["why"], rows["gone"]["why"]) == ("no_billing_account", "no usage")
    assert "same: 1 user, 1,000 minor units before, 1,000 now" in compared.stdout
    assert shop.double.requests == []

    # The block of the docs, line by line, for users and months of ours.
    hold, preview, settle, release, send = documented("Where the old service has sent a part")
    assert run(shop, hold).returncode == 3
    assert shop.double.invoices() == []
    assert run(shop, preview).returncode == 0
    for user in ("ada", "ben"):
        assert run(shop, settle.replace("u-17", user)).returncode == 0
    assert run(shop, release).returncode == 0
    assert run(shop, send).returncode == 3  # cem has no account
    shop.accounts("cem")
    settled = shop.run(
        "settle", "--month", MARCH, "--user", "cem", "--as", "billed-by-hand", "--reason", "in_old_3"
    )
    assert settled.returncode == 0, settled.stderr
    assert shop.run("bill", "--month", MARCH).returncode == 0
    assert [(each.customer, each.total_cents) for each in shop.double.invoices()] == [("cus_new", 90)]
    assert shop.run("reconcile", "--month", MARCH).returncode == 0

    shop.calls(APRIL, ("ada", 10), ("ben", 20), ("cem", 30), ("new", 40))
    assert shop.run("bill", "--month", APRIL).returncode == 0
    assert sorted(each.total_cents for each in shop.double.invoices()) == [10, 20, 30, 40, 90]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user,amount\nada,10\n", "has no column user_id, amount_cents"),
        ("user_id,amount_cents\nada,10.50\n", "Line 2"),
        ("user_id,amount_cents,stripe_invoice_id\nada,1,in_1\nada,1,in_2\n", "stands twice"),
    ],
)
def test_a_file_that_cannot_be_compared_says_why(shop: Any, text: str, said: str) -> None:
    file = Path(shop.home) / "wrong.csv"
    file.write_text(text)
    refused = shop.run("preview", "--month", MARCH, "--against", str(file))

    assert refused.returncode == 1
    assert said in refused.stderr
