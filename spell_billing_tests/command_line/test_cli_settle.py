"""`settle` on the command line: exit codes and month states follow, and refusals change nothing."""

from collections.abc import Callable

import pytest

from spell_billing_tests.command_line.conftest import Shop


@pytest.fixture(scope="module")
def shop(make_shop: Callable[..., Shop]) -> Shop:
    shop = make_shop("sqlite", ready=True)
    shop.accounts("ada", "bob")
    shop.calls("2025-03", ("ada", 1000), ("bob", -500), ("eve", 300))
    assert shop.run("bill", "--month", "2025-03").returncode == 3
    return shop


def test_a_settled_user_ends_the_month_with_exit_code_0(shop: Shop) -> None:
    words = ("settle", "--month", "2025-03", "--user", "eve", "--reason", "paid in cash")
    assert shop.run(*words).returncode == 2
    assert shop.run(*words, "--as", "billed-by-hand", "--credit", "usd").returncode == 2

    done = shop.run(*words, "--as", "billed-by-hand")

    assert done.returncode == 0
    assert done.stdout == "The bill of user eve for 2025-03 is settled: billed by hand.\n"
    status = shop.json("status", "--month", "2025-03")
    assert (status["state"], status["settled"], status["failed"]) == ("billed", 1, 0)
    assert shop.run("bill", "--month", "2025-03").returncode == 0
    refused = shop.run(
        "settle", "--month", "2025-03", "--user", "ada", "--as", "written-off", "--reason", "x"
    )
    assert refused.returncode == 1
    assert "stands at Stripe. Void it first" in refused.stderr


def test_a_credit_in_another_currency_is_settled_and_the_user_billed(
    make_shop: Callable[..., Shop],
) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts("ada", "bob")
    shop.calls("2025-03", ("ada", 1000), ("bob", -500))
    assert shop.run("bill", "--month", "2025-03").returncode == 0
    shop.execute("UPDATE billing_accounts SET currency = 'eur' WHERE user_id = 'bob'")
    shop.calls("2025-04", ("ada", 900), ("bob", 700))
    assert shop.run("bill", "--month", "2025-04").returncode == 3
    assert shop.json("status", "--month", "2025-04")["held"] == 1

    words = ("settle", "--month", "2025-04", "--user", "bob", "--reason", "refunded at the bank")
    wrong = shop.run(*words, "--credit", "gbp")
    assert wrong.returncode == 1
    assert "User bob has no credit in gbp" in wrong.stderr
    done = shop.run(*words, "--credit", "USD")
    assert done.returncode == 0
    assert "The credit of $5.00 of user bob is settled." in done.stdout
    again = shop.run(*words, "--credit", "USD")
    assert again.returncode == 0
    assert "Nothing is left of the credit of user bob in usd: it was settled before." in again.stdout
    assert shop.run(*words, "--credit", "gbp").returncode == 1

    assert shop.run("bill", "--month", "2025-04").returncode == 0
    (bob,) = [each for each in shop.double.invoices() if each.metadata["spell_user_id"] == "bob"]
    assert (bob.total_cents, bob.currency) == (700, "eur")
