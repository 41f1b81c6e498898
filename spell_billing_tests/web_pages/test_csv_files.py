"""Downloads: every row once, exact, and nothing that a spreadsheet would run."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.spreadsheets import safe_cell
from spell_billing.web import overview
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform
from spell_billing_tests.web.house import House
from spell_billing_tests.web_pages.world import OpenDoors

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff201"]


def rows_of(house: House, path: str) -> list[dict[str, str]]:
    answer = house.admit("GET", path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    # Excel takes a file without the mark for one in an old encoding.
    assert answer.text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"), newline="")))


@pytest.mark.both_databases
def test_a_month_s_users_are_each_in_the_file_once(
    platform: SmallPlatform, open_doors: OpenDoors, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [f"user-{number:04}" for number in range(1, 8)]
    platform.calls(MARCH, *((user, 100 + place) for place, user in enumerate(users)))
    platform.accounts(users[0])
    platform.bill(MARCH)

    with open_doors(platform) as house:
        for page_rows in (1, 2, 7, 2_000):
            monkeypatch.setattr(overview, "PAGE_ROWS", page_rows)
            rows = rows_of(house, "/billing/2025-03.csv")

            assert [row["user_id"] for row in rows] == users
            assert [row["total_cents"] for row in rows] == [str(100 + place) for place in range(7)]
            assert rows[0]["state"] == "finalized"
            assert rows[0]["stripe_invoice_id"].startswith("in_")
            assert (rows[1]["state"], rows[1]["reason"]) == ("failed", "no_billing_account")
            assert {row["month"] for row in rows} == {"2025-03"}


def test_no_cell_is_a_formula(light_platform: SmallPlatform, open_doors: OpenDoors) -> None:
    users = [*FORMULAS, 'a"b,c\nd']
    light_platform.source.accounts([{"user_id": user, "stripe_customer_id": "=cus"} for user in users])
    light_platform.calls(MARCH, *((user, -5) for user in users))
    light_platform.bill(MARCH)

    with open_doors(light_platform) as house:
        rows = rows_of(house, "/billing/2025-03.csv")

    assert {row["user_id"] for row in rows} == {f"'{user}" for user in FORMULAS} | {'a"b,c\nd'}
    assert {row["stripe_customer_id"] for row in rows} == {"'=cus"}
    assert {row["total_cents"] for row in rows} == {"-5"}


@given(st.text())
def test_a_safe_cell_begins_with_no_sign_of_a_formula_and_loses_nothing(text: str) -> None:
    assert not safe_cell(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert safe_cell(text).removeprefix("'").endswith(text.removeprefix("'"))


def test_months_are_in_the_file_by_currency(light_platform: SmallPlatform, open_doors: OpenDoors) -> None:
    light_platform.accounts("user-0001")
    light_platform.accounts("user-0002", currency="jpy")
    light_platform.calls(MARCH, ("user-0001", 100), ("user-0002", 70), ("user-0003", 5))
    light_platform.bill(MARCH)

    with open_doors(light_platform) as house:
        rows = rows_of(house, "/billing.csv")

    names = ("month", "state", "currency", "invoices", "invoiced_cents", "missing_cents")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("2025-04", "open", "", "0", "0", "0"),
        ("2025-03", "partial", "jpy", "1", "70", "0"),
        ("2025-03", "partial", "usd", "1", "100", "5"),
    ]


def test_a_month_without_bills_is_an_empty_file(light_doors: House) -> None:
    assert rows_of(light_doors, "/billing/2024-01.csv") == []
