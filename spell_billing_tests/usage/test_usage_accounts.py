"""Billing accounts and plans, on both databases: missing parts, odd spellings, ids of two types."""

from typing import Any

import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.terms import Terms
from spell_billing.settings.lakes import parse_usage_url
from spell_billing.usage.contract import ACCOUNTS_SCHEMA, UsageSource
from spell_billing.usage.source import open_usage_source


def source_of(url: str) -> UsageSource:
    return open_usage_source(parse_usage_url(url, setting="USAGE_DATABASE_URL"))


def test_accounts_come_with_their_plans_and_tidy_values(database_url: str, make_source_tables: Any) -> None:
    tables = make_source_tables(database_url)
    tables.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 5000}])
    tables.accounts(
        [
            {"user_id": "user-2", "stripe_customer_id": " cus_2 ", "currency": "EUR", "plan_id": "gone"},
            {"user_id": "user-3", "stripe_customer_id": "  ", "currency": "", "email": ""},
            {
                "user_id": "user-1",
                "stripe_customer_id": "cus_1",
                "email": "a@example.com",
                "plan_id": "pro",
                "collection": "send",
                "net_days": 14,
                "po_number": " PO 7",
                "footer": "Thank you ",
            },
            {"user_id": "user-4", "stripe_customer_id": None, "currency": None},
        ]
    )

    accounts = source_of(database_url).accounts()

    assert accounts.schema == ACCOUNTS_SCHEMA
    assert sorted(tuple(row.values()) for row in accounts.to_pylist()) == [
        ("user-1", "cus_1", "usd", "a@example.com", "pro", "Pro", 5000, "send", "14", "PO 7", "Thank you"),
        ("user-2", "cus_2", "eur", None, "gone", "", None, *[None] * 4),
        ("user-3", None, "usd", None, None, None, None, *[None] * 4),
        ("user-4", None, "usd", None, None, None, None, *[None] * 4),
    ]


@pytest.mark.parametrize("kind", ["text", "bigint", "numeric(5, 2)"])
def test_terms_of_one_user_are_those_of_all_accounts(
    database_url: str, make_source_tables: Any, kind: str
) -> None:
    tables = make_source_tables(database_url, accounts=False)
    tables.execute(
        "CREATE TABLE billing_accounts (user_id text PRIMARY KEY, stripe_customer_id text, plan_id text, "
        f"collection text, net_days {kind}, po_number text, footer text)"
    )
    tables.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 5000}])
    sent = {"collection": " Send ", "net_days": 14, "po_number": " PO 7 ", "footer": " "}
    tables.accounts([{"user_id": "user-1", "stripe_customer_id": "cus_1", "plan_id": "pro", **sent}])

    account = open_usage_source(parse_usage_url(database_url, setting="DATABASE_URL")).account("user-1")
    (row,) = source_of(database_url).accounts().to_pylist()

    assert account is not None
    assert account.terms == Terms("send", 14, "PO 7", None)
    assert (account.plan_name, account.included_cents) == ("Pro", 5000)
    assert {name: getattr(account, name) for name in sent} == {name: row[name] for name in sent}


def test_optional_columns_and_the_plans_table_may_be_missing(
    database_url: str, make_source_tables: Any
) -> None:
    tables = make_source_tables(database_url, accounts=False, plans=False)
    tables.execute("CREATE TABLE billing_accounts (user_id text PRIMARY KEY, stripe_customer_id text)")
    tables.accounts([{"user_id": "user-1", "stripe_customer_id": "cus_1"}])

    assert source_of(database_url).accounts().to_pylist() == [
        {
            "user_id": "user-1",
            "stripe_customer_id": "cus_1",
            "currency": "usd",
            "email": None,
            "plan_id": None,
            "plan_name": None,
            "included_cents": None,
            "collection": None,
            "net_days": None,
            "po_number": None,
            "footer": None,
        }
    ]


@pytest.mark.parametrize("kind", ["uuid", "bigint", "text"])
def test_user_ids_of_any_type_are_the_text_that_usage_has(
    database_url: str, make_source_tables: Any, kind: str
) -> None:
    user = 42 if kind == "bigint" else "6f9619ff-8b86-d011-b42d-00c04fc964ff"
    tables = make_source_tables(database_url, accounts_user_id=kind)
    tables.accounts([{"user_id": user, "stripe_customer_id": "cus_1"}])

    assert source_of(database_url).accounts()["user_id"].to_pylist() == [str(user)]


def test_two_accounts_of_one_user_are_refused(database_url: str, make_source_tables: Any) -> None:
    tables = make_source_tables(database_url, accounts=False)
    tables.execute("CREATE TABLE billing_accounts (user_id text, stripe_customer_id text)")
    tables.accounts([{"user_id": "user-1", "stripe_customer_id": f"cus_{number}"} for number in (1, 2)])

    with pytest.raises(UsageError, match="billing_accounts has more than one row for user_id 'user-1'"):
        source_of(database_url).accounts()


@pytest.mark.parametrize("included", ["12.5", "-9223372036854775809", "-500", "9223372036854775808", "many"])
def test_included_cents_that_are_no_whole_number_are_refused(
    database_url: str, make_source_tables: Any, included: str
) -> None:
    tables = make_source_tables(database_url, plans=False)
    tables.execute("CREATE TABLE billing_plans (plan_id text PRIMARY KEY, included_cents text)")
    tables.plans([{"plan_id": "pro", "included_cents": included}])

    with pytest.raises(UsageError, match="not a whole number of cents"):
        source_of(database_url).accounts()


def test_included_cents_of_a_numeric_column_are_read_whole(
    database_url: str, make_source_tables: Any
) -> None:
    tables = make_source_tables(database_url, plans=False)
    tables.execute(
        "CREATE TABLE billing_plans (plan_id text PRIMARY KEY, name text, included_cents numeric(12, 2))",
        "INSERT INTO billing_plans VALUES ('pro', 'Pro', 5000.00)",
    )
    tables.accounts([{"user_id": "user-1", "stripe_customer_id": "cus_1", "plan_id": "pro"}])

    assert source_of(database_url).accounts()["included_cents"].to_pylist() == [5000]


def test_accounts_of_some_users_are_read_alone_whatever_their_ids_hold(
    database_url: str, make_source_tables: Any
) -> None:
    odd = ["it's", 'say "x"', "back\\slash", "$1$", "ünï", "a,b", "{}"]
    source = make_source_tables(database_url)
    source.accounts([{"user_id": user, "stripe_customer_id": "cus"} for user in [*odd, "other"]])
    usage = open_usage_source(parse_usage_url(database_url, setting="DATABASE_URL"))

    assert sorted(usage.accounts([*odd, "nobody"])["user_id"].to_pylist()) == sorted(odd)
    assert usage.accounts([]).num_rows == 0
    assert usage.accounts().num_rows == len(odd) + 1
