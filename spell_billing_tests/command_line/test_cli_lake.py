"""Months from a lake through the commands: the engine adds up, and late usage, proof and story follow."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from spell_billing_tests.bucket_server import BucketServer, bucket_server

MARCH, APRIL = datetime(2025, 3, 15, 12, tzinfo=UTC), datetime(2025, 4, 2, tzinfo=UTC)


@pytest.fixture
def shop(make_shop: Callable[[str], Any], lake_url: str) -> Any:
    shop = make_shop("sqlite")
    shop.extra |= {"USAGE_DATABASE_URL": lake_url, "LINE_ITEMS_BY": "endpoint"}
    return shop


@pytest.fixture(scope="module")
def bucket() -> Iterator[BucketServer]:
    with bucket_server() as server:
        yield server


def test_a_month_is_billed_from_parquet_files_and_late_usage_comes_with_the_next(
    shop: Any, lake_url: str, make_source_tables: Any, bucket: BucketServer
) -> None:
    # What was frozen lies in a bucket: nothing of it is on a machine's disk, as nothing of the lake is.
    shop.extra |= {**bucket.settings, "SPELL_BILLING_USAGE_STORE": "s3://usage/lake"}
    tables = make_source_tables(lake_url, cost_cents="decimal(20, 4)")
    for user in ("ann", "bob"):
        shop.double.add_customer(f"cus_{user}")
    tables.accounts({"user_id": user, "stripe_customer_id": f"cus_{user}"} for user in ("ann", "bob"))
    tables.calls([("ann", Decimal("617.25"), MARCH)] * 2 + [("bob", 250, MARCH), ("bob", 50, MARCH)])
    tables.execute(
        "UPDATE usage_counters SET endpoint = '/v1/chat' WHERE user_id = 'bob' AND cost_cents = 50"
    )

    assert shop.run("init-db").returncode == 0
    billed = shop.run("bill", "--month", "2025-03")
    assert billed.returncode == 0, billed.stderr
    kept = json.loads(bucket.content("lake/2025-03/v0001/manifest.json"))
    assert (kept["format_version"], kept["backend"]) == (3, "duckdb")
    assert [file["name"] for file in kept["files"]] == ["user_sums.parquet"]
    assert {each["user_id"]: each["total_cents"] for each in shop.json("invoices", "--month", "2025-03")} == {
        "ann": 1235,
        "bob": 300,
    }
    assert shop.run("reconcile", "--month", "2025-03").returncode == 0
    story = shop.run("explain", "--month", "2025-03", "--user", "bob").stdout
    assert "2025-03-15         2 calls  300 cents\n" in story
    assert "The days are those of the rows in duckdb now, the rows that were frozen." in story
    assert "/v1/chat  1 calls  50 cents" in story

    tables.calls([("ann", 100, MARCH), ("ann", 10, APRIL), ("bob", 1000, APRIL)])
    tables.execute("DELETE FROM usage_counters WHERE cost_cents = 50")
    held = shop.run("bill", "--month", "2025-04")
    assert (held.returncode, "1 of 2 users have lost rows" in held.stderr) == (3, True)
    assert shop.run("approve", "--month", "2025-04", "--reason", "one call was a mistake").returncode == 0
    billed = shop.run("bill", "--month", "2025-04")
    assert billed.returncode == 0, billed.stderr
    assert {each["user_id"]: each["total_cents"] for each in shop.json("invoices", "--month", "2025-04")} == {
        "ann": 110,
        "bob": 950,
    }
    assert shop.run("reconcile", "--month", "2025-04").returncode == 0
    told = shop.run_from_nothing("explain", "--month", "2025-03", "--user", "bob")
    story = told.stdout
    assert told.stderr == ""
    assert re.search(r"2 calls, 300 cents\n  2025-03-15 +1 calls  250 cents\n", story)
    assert "not the rows that were frozen." in story
