"""One month through the commands, each a process of its own: made ready, previewed, billed, looked at."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from spell_billing.settings.databases import create_engine_for, parse_database_url

STATUS_KEYS = [
    *("month", "state", "users", "calls", "usage_cents", "total_cents"),
    *("invoiced", "failed", "held", "skipped"),
]
INVOICE_KEYS = [
    *("user_id", "stripe_customer_id", "stripe_invoice_id", "state", "reason"),
    *("calls", "usage_cents", "total_cents", "currency", "description"),
]
NO_ACCOUNT = "The user has no row in billing_accounts. Add one, then bill the month again."


@dataclass
class Told:
    """What the commands said, in the order in which they ran."""

    shop: Any
    said: dict[str, "subprocess.CompletedProcess[str]"] = field(default_factory=dict)
    requests_before_billing: int = 0

    def json(self, name: str) -> Any:
        return json.loads(self.said[name].stdout)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def told(request: pytest.FixtureRequest, make_shop: Callable[..., Any]) -> Told:
    """Bill March 2025 of a shop; the tests read what was said.

    On SQLite a command is a new Python the first time, as in a shell.
    """
    shop = make_shop(request.param)
    begun = set() if request.param == "sqlite" else {*("init-db", "status", "preview", "bill", "invoices")}

    def run(command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        way = shop.run if command in begun else shop.run_from_nothing
        begun.add(command)
        done: subprocess.CompletedProcess[str] = way(command, *arguments)
        return done

    shop.accounts("user-0001", "user-0002", "user-0004")
    calls = [("user-0001", 617), ("user-0001", 617), ("user-0002", 250), ("user-0003", 5), ("user-0004", 0)]
    shop.calls("2025-03", *calls)
    told = Told(shop)
    month = ("--month", "2025-03")
    told.said["init-db"] = run("init-db")
    told.said["init-db again"] = run("init-db")
    told.said["status before"] = run("status", *month, "--json")
    told.said["preview"] = run("preview", *month)
    told.said["preview json"] = run("preview", *month, "--json")
    told.said["status previewed"] = run("status", *month, "--json")
    told.requests_before_billing = len(shop.double.requests)
    told.said["bill"] = run("bill", *month)
    told.said["status partial"] = run("status", *month, "--json")
    told.said["invoices"] = run("invoices", *month, "--json")
    told.said["bill again"] = run("bill", *month)
    shop.accounts("user-0003")
    told.said["bill mended"] = run("bill", *month)
    told.said["status billed"] = run("status", *month, "--json")
    told.said["status text"] = run("status", *month)
    told.said["invoices text"] = run("invoices", *month)
    told.said["status of all"] = run("status", "--json")
    return told


def test_init_db_says_what_it_did_and_may_be_repeated(told: Told) -> None:
    assert told.said["init-db"].returncode == told.said["init-db again"].returncode == 0
    assert re.fullmatch(r"The ledger in \S+ is now up to date\.\n", told.said["init-db"].stdout)
    assert re.fullmatch(r"The ledger in \S+ is already up to date\.\n", told.said["init-db again"].stdout)


def test_a_preview_is_what_is_billed_then_and_leaves_no_trace(told: Told) -> None:
    planned = [row for row in told.json("preview json") if row["state"] == "planned"]

    assert told.requests_before_billing == 0
    assert told.said["status previewed"].stdout == told.said["status before"].stdout
    sent = {
        invoice.customer: (invoice.total_cents, invoice.currency)
        for invoice in told.shop.double.invoices()
        if invoice.customer != "cus_user-0003"
    }
    assert {row["customer"]: (row["total_cents"], row["currency"]) for row in planned} == sent
    assert told.json("preview json")[0] == {
        "user": "user-0001",
        "state": "planned",
        "reason": "",
        "customer": "cus_user-0001",
        "plan": "",
        "currency": "usd",
        "calls": 2,
        "usage_cents": 1234,
        "total_cents": 1234,
        "lines": [
            {
                "kind": "usage",
                "description": "Spell Platform API Usage - March 2025 (2 calls, $12.34)",
                "usage_month": "2025-03",
                "calls": 2,
                "amount_cents": 1234,
            }
        ],
    }


def test_a_preview_s_text_has_every_user_and_the_totals(told: Told) -> None:
    text = told.said["preview"].stdout

    assert "plan " not in text, "nobody is on one"
    assert re.search(r"user-0001 +planned +cus_user-0001 +2 +\$12\.34 +\$12\.34", text)
    assert "planned: 2 users, 3 calls, $14.84" in text
    assert "failed: 1 user, 1 calls, $0.05" in text
    assert "skipped: 1 user, 1 calls, $0.00" in text
    assert text.endswith("Nothing was sent to Stripe.\n")


def test_billing_with_users_left_ends_with_3_and_says_who_and_why(told: Told) -> None:
    billed = told.said["bill"]
    text = " ".join(billed.stdout.split())

    assert billed.returncode == 3, billed.stderr
    assert "March 2025 (2025-03): partly billed" in text
    assert "4 users with a bill, 5 calls, worth $14.89." in text
    assert "Invoiced 2 $14.84" in text
    assert "user-0003 no_billing_account: The user has no row in billing_accounts." in text


def test_the_log_lines_are_those_the_operators_know_in_their_order(told: Told) -> None:
    ids = {bill["user_id"]: bill["stripe_invoice_id"] for bill in told.json("invoices")}
    between = ("Drafts written", "Asked Stripe what stands: ")
    lines = [line for line in told.said["bill"].stderr.splitlines() if not line.startswith(between)]

    # Users are billed side by side: only their order among themselves is open.
    lines[3:5] = sorted(lines[3:5], key=lambda line: line.partition(" for user ")[2])
    assert lines == [
        "Starting monthly billing process",
        "Processing billing for period: 2025-03-01 to 2025-03-31",
        "Found 4 users with usage",
        f"Created invoice {ids['user-0001']} for user user-0001 ($12.34, 2 calls)",
        f"Created invoice {ids['user-0002']} for user user-0002 ($2.50, 1 calls)",
        f"Failed to bill user user-0003: {NO_ACCOUNT}",
        "Monthly billing completed: 2 successful, 1 errors",
    ]


def test_billing_again_bills_nothing_twice_and_says_so(told: Told) -> None:
    again = told.said["bill again"]

    assert again.returncode == 3
    assert "No new invoice: the 2 invoices of earlier runs stand, nobody was billed twice." in again.stdout
    assert "Monthly billing completed: 0 successful, 1 errors" in again.stderr
    per_customer = [invoice.customer for invoice in told.shop.double.invoices()]
    assert sorted(per_customer) == ["cus_user-0001", "cus_user-0002", "cus_user-0003"]
    assert told.shop.double.violations == []


def test_what_was_mended_is_billed_by_the_next_run_which_ends_with_0(told: Told) -> None:
    mended = told.said["bill mended"]

    assert mended.returncode == 0, mended.stderr
    assert "1 new invoice: the 2 invoices of earlier runs stand, nobody was billed twice." in mended.stdout
    assert "billed: every user is invoiced or rightly skipped" in mended.stdout


def test_status_json_has_the_agreed_keys_and_numbers_in_each_state(told: Told) -> None:
    before, partial, billed = (told.json(f"status {name}") for name in ("before", "partial", "billed"))

    assert all(set(STATUS_KEYS) <= set(status) for status in (before, partial, billed))
    assert [before[key] for key in STATUS_KEYS] == ["2025-03", "unbilled", 0, 0, 0, 0, 0, 0, 0, 0]
    assert [partial[key] for key in STATUS_KEYS] == ["2025-03", "partial", 4, 5, 1489, 1489, 2, 1, 0, 1]
    assert [billed[key] for key in STATUS_KEYS] == ["2025-03", "billed", 4, 5, 1489, 1489, 3, 0, 0, 1]
    assert partial["reasons"][0]["first_users"] == ["user-0003"]


def test_a_month_that_is_not_over_is_open(told: Told) -> None:
    assert told.shop.json("status", "--month", "2099-01")["state"] == "open"


def test_status_without_a_month_lists_them_all_from_the_first_drafted(told: Told) -> None:
    every = told.json("status of all")

    assert [status["month"] for status in every][:2] == ["2025-03", "2025-04"]
    assert [status["state"] for status in every][:2] == ["billed", "unbilled"]
    assert every[-1]["state"] == "open"


def test_status_in_words_has_the_totals(told: Told) -> None:
    text = told.said["status text"].stdout

    assert "March 2025 (2025-03): billed: every user is invoiced or rightly skipped" in text
    assert re.search(r"Invoiced +3 +\$14\.89", text)


def test_invoices_json_has_the_agreed_keys(told: Told) -> None:
    bills = told.json("invoices")
    first = bills[0]

    assert all(set(INVOICE_KEYS) <= set(bill) for bill in bills)
    assert first["stripe_invoice_id"].startswith("in_")
    assert {name: first[name] for name in INVOICE_KEYS if name != "stripe_invoice_id"} == {
        "user_id": "user-0001",
        "stripe_customer_id": "cus_user-0001",
        "state": first["state"],
        "reason": None,
        "calls": 2,
        "usage_cents": 1234,
        "total_cents": 1234,
        "currency": "usd",
        "description": "Spell Platform API Usage - March 2025 (2 calls, $12.34)",
    }
    assert first["state"] in {"finalized", "paid"}
    assert [(bill["user_id"], bill["state"], bill["reason"]) for bill in bills[2:]] == [
        ("user-0003", "failed", "no_billing_account"),
        ("user-0004", "skipped", "no_charge"),
    ]


def test_invoices_in_words_have_a_line_a_user(told: Told) -> None:
    lines = told.said["invoices text"].stdout.splitlines()

    assert len(lines) == 5
    assert re.search(r"user-0002 +in_\S+ +(finalized|paid) +1 +\$2\.50", told.said["invoices text"].stdout)


def test_each_bill_is_a_run_of_the_dagster_instance_with_its_materializations_and_actor(told: Told) -> None:
    with dg.DagsterInstance.from_config(str(told.shop.home / "dagster")) as instance:
        runs = instance.get_runs()
        partitions = instance.get_materialized_partitions(dg.AssetKey("stripe_invoices"))

    assert [run.status.value for run in runs] == ["SUCCESS"] * 3
    assert {run.job_name for run in runs} == {"monthly_billing"}
    assert all("@" in run.tags["spell_billing/actor"] for run in runs)
    assert all(run.tags["dagster/partition"] == "2025-03-01" for run in runs)
    assert partitions == {"2025-03-01"}


def test_nothing_secret_is_in_any_file_or_in_the_ledger(told: Told, confidential: str) -> None:
    found = [
        str(path)
        for path in told.shop.home.rglob("*")
        if path.is_file() and confidential.encode() in path.read_bytes()
    ]
    engine = create_engine_for(parse_database_url(told.shop.url, setting="DATABASE_URL"))
    with engine.connect() as connection:
        rows = [
            str(row)
            for table in sa.inspect(engine).get_table_names()
            for row in connection.execute(sa.text(f"SELECT * FROM {table}"))
        ]
    engine.dispose()

    assert found == []
    assert len(rows) > 20
    assert not any(confidential in row for row in rows)
