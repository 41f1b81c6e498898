"""Spend limits of accounts: whole cents or none, read without disturbing what bills are made of."""

from collections.abc import Callable
from typing import Any

import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.lakes import parse_usage_url
from spell_billing.usage.accounts import require_right
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.source import open_usage_source

MARCH = Month(2025, 3)


def source_of(url: str) -> UsageSource:
    return open_usage_source(parse_usage_url(url, setting="USAGE_DATABASE_URL"))


@pytest.mark.both_databases
def test_a_user_is_read_with_account_limit_and_calls(
    database_url: str, make_source_tables: Callable[..., Any]
) -> None:
    tables = make_source_tables(database_url)
    tables.calls([("user-0001", 5, MARCH.start), ("user-0001", 7, MARCH.end), ("user-0002", 9, MARCH.start)])
    tables.accounts([{"user_id": "user-0001", "stripe_customer_id": "cus_1", "currency": "EUR"}])
    source = source_of(database_url)
    assert not source.spend_limits().cents
    assert source.spending("user-0001", MARCH).limit_cents is None

    tables.execute(
        "ALTER TABLE billing_accounts ADD COLUMN spend_limit_cents bigint",
        "UPDATE billing_accounts SET spend_limit_cents = 5000",
    )

    found = source.spending("user-0001", MARCH)
    assert found.account is not None
    assert (found.account.currency, found.limit_cents, str(found.month.cost_cents)) == ("eur", 5000, "5")
    assert source.spending("nobody", MARCH).account is None
    assert source.spending("no\0body", MARCH).month.calls == 0
    assert source.spend_limits().cents == {"user-0001": 5000}


@pytest.mark.both_databases
def test_what_is_no_limit_is_named_and_stops_neither_others_nor_a_bill(
    database_url: str, make_source_tables: Callable[..., Any]
) -> None:
    tables = make_source_tables(database_url)
    tables.execute("ALTER TABLE billing_accounts ADD COLUMN spend_limit_cents text")
    values = {"one": "0", "two": " 12.00 ", "three": "", "four": None, "five": "-1", "six": "1.5"}
    values |= {"seven": "x", "eight": "9" * 40, "nine": "1e3", "ten": "٣", "eleven": "NaN"}
    for user, value in values.items():
        tables.accounts([{"user_id": user, "spend_limit_cents": value}])
    source = source_of(database_url)

    limits = source.spend_limits()

    assert limits.cents == {"one": 0, "two": 12}
    assert set(limits.wrong) == {"five", "six", "seven", "eight", "nine", "ten", "eleven"}
    with pytest.raises(UsageError, match=r"'-1' for user five.* and 2 more, not a whole number"):
        require_right(limits)
    with pytest.raises(UsageError, match=r"'1\.5' for user six, not a whole number of cents") as refused:
        source.spending("six", MARCH)
    assert "null for a user without a limit" in refused.value.remedy
    assert len(source.accounts()) == len(values)


def test_without_the_table_of_accounts_there_is_no_limit(
    sqlite_url: str, make_source_tables: Callable[..., Any]
) -> None:
    make_source_tables(sqlite_url, accounts=False)

    assert source_of(sqlite_url).spend_limits().cents == {}
