"""The first month of all, through the commands: what holds it where there is no past to compare it with."""

from collections.abc import Callable
from typing import Any

import pytest

from spell_billing_tests.command_line.test_cli_review import APRIL, MARCH, USERS, bill, month_of


def test_fees_of_a_month_without_a_row_are_held_where_no_month_was_billed_before(
    make_shop: Callable[..., Any],
) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts(*USERS)
    shop.execute(
        "CREATE TABLE billing_plans (plan_id text, name text, included_cents int, monthly_fee_cents int)"
    )
    shop.execute("INSERT INTO billing_plans VALUES ('pro', 'Pro', 0, 1900)")
    shop.execute("ALTER TABLE billing_accounts ADD COLUMN plan_id text")
    shop.execute("UPDATE billing_accounts SET plan_id = 'pro'")

    held = bill(shop, MARCH, code=3)

    assert "2025-03 has no row of usage, and no month before it was billed" in held.stdout
    assert "it would charge 20 users fees of $380.00" in held.stdout
    assert shop.double.requests == []
    assert shop.run("approve", "--month", MARCH, "--reason", "fees alone").returncode == 0
    assert bill(shop, MARCH, code=0)
    assert bill(shop, APRIL, code=0), "a month like the one before"


def test_status_says_what_was_found_and_what_to_do_as_bill_did(make_shop: Callable[..., Any]) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts(*USERS)
    month_of(shop, MARCH)
    month_of(shop, APRIL, USERS[:1])
    bill(shop, MARCH, code=0)
    held = bill(shop, APRIL, code=3).stdout
    review = held[held.index(f"{APRIL} is in review") :]

    for arguments in (("--month", APRIL), ()):
        assert review in shop.run("status", *arguments).stdout
    assert "is in review" not in shop.run("status", "--month", MARCH).stdout
    told = shop.json("status", "--month", APRIL)["review"]
    assert [finding["code"] for finding in told["findings"]] == ["month_not_plausible"]
    assert (told["needs_approval"], told["approvals_missing"], told["approval"]) == (True, 1, None)
    assert shop.json("status", "--month", "2025-05")["review"] is None

    shop.run("approve", "--month", APRIL, "--reason", "one left")
    assert "is in review" not in shop.run("status", "--month", APRIL).stdout
    told = shop.json("status", "--month", APRIL)["review"]
    assert not told["needs_approval"]
    assert told["approval"]["reason"] == "one left"


def test_accounts_that_name_plans_are_held_in_the_first_month_where_there_is_no_table_of_plans(
    make_shop: Callable[..., Any],
) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts(*USERS)
    month_of(shop, MARCH)
    month_of(shop, APRIL)
    shop.execute("ALTER TABLE billing_accounts ADD COLUMN plan_id text")
    shop.execute("UPDATE billing_accounts SET plan_id = ' '")
    shop.execute("UPDATE billing_accounts SET plan_id = 'pro' WHERE user_id >= 'user-10'")

    held = bill(shop, MARCH, code=3)

    assert "10 accounts name a plan (pro), but there is no billing_plans" in held.stdout
    assert shop.double.requests == []
    assert shop.run("approve", "--month", MARCH, "--reason", "our own column").returncode == 0
    assert bill(shop, MARCH, code=0)
    assert bill(shop, APRIL, code=0), "it was answered"
    month_of(shop, "2025-05")
    shop.execute("UPDATE billing_accounts SET plan_id = 'max' WHERE user_id = 'user-10'")
    assert "1 account names a plan (max), but" in bill(shop, "2025-05", code=3).stdout


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_users_whose_customers_were_swapped_are_held(make_shop: Callable[..., Any], kind: str) -> None:
    shop = make_shop(kind, ready=True)
    shop.accounts(*USERS)
    month_of(shop, MARCH)
    month_of(shop, APRIL)
    bill(shop, MARCH, code=0)
    shop.double.add_customer("cus_new")
    move = "UPDATE billing_accounts SET stripe_customer_id = '{}' WHERE user_id = '{}'"
    for customer, user in (("cus_user-01", "user-00"), ("cus_user-00", "user-01"), ("cus_new", "user-02")):
        shop.execute(move.format(customer, user))

    held = bill(shop, APRIL, code=3)

    assert "the customers of other users would get the bills of user-00, user-01 (see" in held.stdout
    shop.execute(
        "UPDATE billing_accounts SET stripe_customer_id = 'cus_' || user_id WHERE user_id < 'user-02'"
    )
    assert bill(shop, APRIL, code=0), "a customer that no other user had"


def test_nobody_with_an_account_is_one_finding(make_shop: Callable[..., Any]) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts(*(user.upper() for user in USERS[:10]))
    month_of(shop, MARCH)

    held = bill(shop, MARCH, code=3)

    named = "10 users of 20 would have an account if case, spaces, punctuation, leading zeros and "
    assert named in held.stdout
    assert "'user-00' and 'USER-00'" in held.stdout
    assert "--against" not in held.stdout, "there is no month to compare with"
    assert shop.double.requests == []
    shop.execute("UPDATE billing_accounts SET user_id = 'x' || user_id")
    assert "None of 20 users has a billing account with a Stripe customer" in bill(shop, MARCH, code=3).stdout


@pytest.mark.parametrize(
    ("used", "account"),
    [
        ("anna ", "anna"),
        ("jos\u00e9", "jose\u0301"),
        ("{6f1c-02}", "6F1C02"),
        ("007", "7"),
        ("7.0", "7"),
        ("stra\u00dfe", "STRASSE"),
        ("a_b", "a b"),
    ],
)
def test_an_id_that_is_only_written_otherwise_is_named_with_the_accounts(
    make_shop: Callable[..., Any], used: str, account: str
) -> None:
    shop = make_shop("sqlite", ready=True)
    shop.accounts(*USERS[1:], account)
    month_of(shop, MARCH, [*USERS[1:], used])

    held = bill(shop, MARCH, code=3)

    assert "1 user of 20 would have an account if case, spaces, " in held.stdout
    assert f"{used!a} and {account!a}" in held.stdout
