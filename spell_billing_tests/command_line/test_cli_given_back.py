"""Money given back of an invoice whose rows are corrected too, by commands: held, and both ways out."""

from collections.abc import Callable

import pytest

from spell_billing_tests.command_line.conftest import Shop

MARCH, APRIL, MAY = "2025-03", "2025-04", "2025-05"
RULES = {"REVIEW_PAST_PERCENT": "100", "REVIEW_MONTH_PERCENT": "100,9999"}


def bill(shop: Shop, month: str, code: int = 0) -> str:
    done = shop.run("bill", "--month", month, **RULES)
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stdout + done.stderr)


def totals(shop: Shop, user: str) -> list[int]:
    return [each.total_cents for each in shop.double.invoices() if each.metadata["spell_user_id"] == user]


@pytest.mark.parametrize("way", ["release", "settle"])
def test_a_bill_that_would_give_back_twice_is_held_alone_until_a_person_says_what_was_meant(
    make_shop: Callable[..., Shop], way: str
) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts("ada", "bob")
    shop.calls(MARCH, ("ada", 400), ("ada", 600), ("bob", 500))
    bill(shop, MARCH)
    credit = ("credit", "--month", MARCH, "--user", "ada", "--cents", "500", "--reason", "wrong rows")
    assert shop.run(*credit).returncode == 0
    shop.execute("DELETE FROM usage_counters WHERE cost_cents = 600")
    shop.calls(APRIL, ("ada", 900), ("bob", 500))

    said = bill(shop, APRIL, code=3)

    assert totals(shop, "ada") == [1000]
    assert totals(shop, "bob") == [500, 500]
    settle = ("settle", "--month", MARCH, "--user", "ada", "--given-back", "correction")
    assert "$5.00 of the invoice of 2025-03 went back" in said
    assert "this bill would give back $6.00 for rows of 2025-03" in said
    assert (
        f"`spell-billing release --month {APRIL} --user ada`, or `spell-billing {' '.join(settle)}`" in said
    )
    assert "No bill of 2025-04 is held that" in shop.run("release", "--month", APRIL, "--all").stderr
    if way == "release":
        assert shop.run("release", "--month", APRIL, "--user", "ada", "--reason", "both").returncode == 0
    else:
        done = shop.run(*settle, "--reason", "one mistake")
        assert "Of $5.00 given back of user ada's invoice for 2025-03, $5.00 counts for rows" in done.stdout
        assert shop.run(*settle, "--reason", "one mistake").stdout == done.stdout
    assert "already_given_back" not in bill(shop, APRIL)
    shop.calls(MAY, ("ada", 700))
    bill(shop, MAY)

    assert totals(shop, "ada") == [1000, 300 if way == "release" else 800, 700]
    for month in (MARCH, APRIL, MAY):
        reconciled = shop.run("reconcile", "--month", month)
        assert reconciled.returncode == 0, reconciled.stdout
