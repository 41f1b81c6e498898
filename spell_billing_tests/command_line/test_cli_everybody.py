"""A month that should not have been billed is taken back: what is open is voided, what is paid credited."""

from collections.abc import Callable
from typing import Any

import pytest

MARCH = ("--month", "2025-03")
WHY = ("--reason", "wrong month")


@pytest.fixture(params=["sqlite", "postgresql"])
def billed(request: pytest.FixtureRequest, make_shop: Callable[..., Any]) -> Any:
    """Give a shop whose March is billed: two users have paid, and two cards were declined."""
    shop = make_shop(request.param, ready=True)
    shop.accounts("ann", "bob", "cid", "dan")
    for user in ("cid", "dan"):
        shop.double.add_customer(f"cus_{user}", card="declined")
    shop.calls("2025-03", ("ann", 1_000), ("bob", 2_000), ("cid", 500), ("dan", 700))
    assert shop.run("bill", *MARCH).returncode == 0
    # The ledger learns what was paid.
    assert shop.run("bill", *MARCH, "--verify").returncode == 0
    return shop


def stands(shop: Any) -> dict[str, str]:
    return {each.customer: each.status for each in shop.double.invoices()}


def test_everybody_s_open_invoice_is_voided_and_the_paid_ones_are_named(billed: Any) -> None:
    voided = billed.run("void", *MARCH, "--everybody", "--for-good", *WHY)

    assert voided.returncode == 3
    assert voided.stdout.count(" is void.") == 2
    assert "2 users paid, and a paid invoice is given back" in voided.stdout
    assert "spell-billing credit --month 2025-03 --everybody --all --reason" in voided.stdout
    assert stands(billed) == {"cus_ann": "paid", "cus_bob": "paid", "cus_cid": "void", "cus_dan": "void"}

    credited = billed.run("credit", *MARCH, "--everybody", "--all", *WHY)
    assert credited.returncode == 0, credited.stdout + credited.stderr
    assert credited.stdout.count("is refunded to the card.") == 2
    assert sorted(note.amount_cents for note in billed.double.state.credit_notes) == [1_000, 2_000]
    again = billed.run("credit", *MARCH, "--everybody", "--all", *WHY)
    assert again.stdout.count("Nothing was done") == 2
    assert len(list(billed.double.state.credit_notes)) == 2
    assert billed.run("bill", *MARCH).returncode == 0
    assert stands(billed)["cus_cid"] == "void", "voided for good"


def test_one_who_is_refused_keeps_nobody_else_from_it(billed: Any) -> None:
    assert billed.run("credit", *MARCH, "--user", "ann", "--all", "--reason", "outage").returncode == 0

    credited = billed.run("credit", *MARCH, "--everybody", "--all", *WHY)

    assert credited.returncode == 3
    assert credited.stdout.count("Left as it is: ") == 1
    assert len(list(billed.double.state.credit_notes)) == 4, "two lower what is due"


def test_an_answer_that_is_lost_on_the_way_gives_nobody_back_twice(billed: Any) -> None:
    lost = billed.double.arm("lost_after", operation="credit_notes.create", nth=2)

    credited = billed.run("credit", *MARCH, "--everybody", "--all", *WHY)

    assert lost.fired
    assert credited.returncode == 0, credited.stdout + credited.stderr
    assert sorted(note.amount_cents for note in billed.double.state.credit_notes) == [500, 700, 1_000, 2_000]


@pytest.mark.parametrize("whom", [(), ("--user", "ann", "--everybody")])
@pytest.mark.parametrize("command", [("void",), ("credit", "--all")])
def test_it_must_be_said_whose(billed: Any, command: tuple[str, ...], whom: tuple[str, ...]) -> None:
    refused = billed.run(*command, *MARCH, *whom, *WHY)

    assert refused.returncode == 2
    assert "Say whose: --user ID, or --everybody." in refused.stderr
