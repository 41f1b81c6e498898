"""Ids that look like markup, emoji or formulas are printed as they are, and kept out of spreadsheets."""

import csv
from collections.abc import Callable

import pytest

from spell_billing_tests.command_line.conftest import Shop

NAMES = ["team[/a]", "org[prod]", "[bold]x", ":smile:", "=HYPERLINK(1)", "[link=http://x]y[/link]"]


@pytest.fixture(scope="module")
def shop(make_shop: Callable[..., Shop]) -> Shop:
    shop = make_shop("sqlite", ready=True)
    shop.accounts("ada")
    shop.calls("2025-03", ("ada", 100_000), *((name, 10) for name in NAMES))
    return shop


def test_every_command_prints_them_as_they_are(shop: Shop) -> None:
    preview = shop.run("preview", "--month", "2025-03")
    billed = shop.run("bill", "--month", "2025-03")
    assert (preview.returncode, billed.returncode) == (0, 3)
    assert all(name in preview.stdout for name in NAMES)
    for command in ("status", "invoices", "reconcile"):
        assert "Traceback" not in shop.run(command, "--month", "2025-03").stderr
    shown = shop.run("invoices", "--month", "2025-03").stdout
    assert all(name in shown for name in NAMES)
    named = shop.json("status", "--month", "2025-03")["reasons"][0]["first_users"]
    for output in (billed.stdout, shop.run("status", "--month", "2025-03").stdout):
        assert all(name in output.replace("\n", "") for name in named[:2])
    for name in NAMES:
        assert shop.run("explain", "--month", "2025-03", "--user", name).returncode == 0


def test_a_preview_file_holds_no_formula_and_opens_in_excel(shop: Shop) -> None:
    assert shop.run("preview", "--month", "2025-03", "--csv", str(shop.home / "out.csv")).returncode == 0
    content = (shop.home / "out.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    users = [row["user"] for row in csv.DictReader(content.decode("utf-8-sig").splitlines())]
    assert "'=HYPERLINK(1)" in users
    assert "team[/a]" in users


ACTING = ["red\x1b[31m", "line\nAll four agree", "bell\x07", "back\u202egnp", "tab\tx", "cr\rx"]
SPELLED_OUT = [r"red\x1b[31m", r"line\nAll four agree", r"bell\x07", r"back\u202egnp", r"tab\tx", r"cr\rx"]


def test_no_command_lets_an_id_act_on_the_terminal(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts("ada", ACTING[0])
    shop.calls("2025-04", ("ada", 100_000), *((name, 1_000) for name in ACTING))
    of_the_month = "--month", "2025-04"

    outputs = [
        shop.run(*command, *of_the_month)
        for command in (("preview",), ("bill",), ("status",), ("invoices",), ("reconcile",))
    ]
    outputs += [shop.run("explain", *of_the_month, "--user", name) for name in ACTING]
    outputs += [shop.run("hold", *of_the_month, "--user", name, "--reason", "asked") for name in ACTING]
    outputs += [shop.run("void", *of_the_month, "--user", ACTING[0], "--reason", "asked")]

    for done in outputs:
        for text in (done.stdout, done.stderr):
            assert not any(name in text for name in ACTING)
            assert "\x1b" not in text
            assert "\x07" not in text
    shown = outputs[3].stdout
    assert all(name in shown for name in SPELLED_OUT)
