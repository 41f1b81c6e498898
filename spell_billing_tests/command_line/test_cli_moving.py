"""Billing moves over from another service: the first month is billed once, as the docs say how."""

import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
RECIPE = DOCS.parent / "recipes" / "from-a-script.md"
FEBRUARY, MARCH, APRIL = "2025-02", "2025-03", "2025-04"
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
    hold, preview, settle, release, send = documented("If the old service has sent part")
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


def test_a_scripts_invoices_are_exported_and_compared_and_only_the_next_month_is_billed(shop: Any) -> None:
    text = RECIPE.read_text()
    (code,) = re.findall(r"```python\n(.*?)\n *```", text, re.DOTALL)
    (shop.home / "export_old.py").write_text(textwrap.dedent(code))
    (first,) = re.findall(r"export SPELL_BILLING_FIRST_MONTH=(\S+)", text)
    (compare,) = re.findall(r"spell-billing (preview .*--against.*)", text)
    shop.accounts("ada", "ben")
    for user, cents in (("ada", 1000), ("ben", 450), ("cem", 70)):
        shop.calls(FEBRUARY, (user, cents))
        shop.calls(MARCH, (user, 5))
    script = stripe.StripeClient("sk_test_old", base_addresses={"api": shop.double.base_url}).v1
    shop.double.add_customer("cus_cem")
    for user, cents in (("ada", 1000), ("ben", 449), ("cem", 70)):
        sent = script.invoices.create({"customer": f"cus_{user}", "auto_advance": False})
        script.invoices.add_lines(sent.id, {"lines": [{"description": "Usage", "amount": cents}]})
        script.invoices.finalize_invoice(sent.id)

    (shop.home / "old.csv").write_text(exported(shop))
    rows = shop.json(*shlex.split(compare))

    assert {row["user"]: (row["outcome"], row["by_cents"]) for row in rows} == {
        "ada": ("same", 0),
        "ben": ("different", 1),
        "cus_cem": ("missing", -70),
    }
    limit = {"SPELL_BILLING_FIRST_MONTH": first}
    refused = shop.run("bill", "--month", FEBRUARY, **limit)
    assert (refused.returncode, "precedes the first billed month" in refused.stderr) == (1, True)
    assert shop.run("bill", "--month", MARCH, **limit).returncode == 3  # cem has no account
    ours = {each.customer: each.total_cents for each in shop.double.invoices()[3:]}
    assert ours == {"cus_ada": 5, "cus_ben": 5}


def exported(shop: Any) -> str:
    """Run the recipe's script against the double, for the days around now: it created the invoices now."""
    now = datetime.now(UTC)
    days = (f"{now + timedelta(days=days):%Y-%m-%d}" for days in (-1, 2))
    run_at_double = (
        "import os, runpy, stripe; stripe.api_base = os.environ['STRIPE_API_BASE']; "
        "runpy.run_path('export_old.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", run_at_double, *days],
        cwd=shop.home,
        env=shop.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
