"""Which columns PostgreSQL proves to be filled: what a NOT NULL is worth, and what some rows evade."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spell_billing.core.month import Month
from spell_billing.settings.databases import parse_database_url
from spell_billing.usage.frozen import Totals
from spell_billing.usage.postgres_catalog import COLUMNS_QUERY
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

NAMELESS = "(1, 'user-1', 5, '2026-10-15 12:00+00'), (2, NULL, 7, '2026-10-15 12:00+00')"
COLUMNS = "id bigint, user_id text, cost_cents bigint, created_at timestamptz"
REQUIRED = "user_id text CONSTRAINT required NOT NULL"


@pytest.mark.parametrize(
    "statements",
    [
        [
            f"CREATE TABLE usage_counters ({COLUMNS})",
            f"INSERT INTO usage_counters VALUES {NAMELESS}",
            "ALTER TABLE usage_counters ADD CONSTRAINT new_rows_only NOT NULL user_id NOT VALID",
        ],
        [
            f"CREATE TABLE usage_counters ({COLUMNS.replace('user_id text', f'{REQUIRED} NO INHERIT')})",
            "CREATE TABLE heir () INHERITS (usage_counters)",
            f"INSERT INTO heir VALUES {NAMELESS}",
        ],
        [
            "CREATE DOMAIN name AS text NOT NULL",
            f"CREATE TABLE usage_counters ({COLUMNS.replace('user_id text', 'user_id name')})",
            "INSERT INTO usage_counters VALUES (1, 'user-1', 5, '2026-10-15 12:00+00')",
            # PostgreSQL documents that an empty subquery evades a domain.
            "INSERT INTO usage_counters VALUES (2, (SELECT name 'x' WHERE false), 7, '2026-10-15 12:00+00')",
        ],
        [
            "CREATE DOMAIN name AS text NOT NULL",
            "CREATE TABLE names (id bigint, user_id name)",
            "INSERT INTO names VALUES (1, 'user-1')",
            f"CREATE TABLE calls ({COLUMNS.replace('user_id text, ', '')})",
            (
                f"INSERT INTO calls SELECT id, cost_cents, at::timestamptz FROM (VALUES {NAMELESS}) "
                "AS row (id, user_id, cost_cents, at)"
            ),
            (
                "CREATE VIEW usage_counters AS SELECT calls.id, user_id, cost_cents, created_at "
                "FROM calls LEFT JOIN names USING (id)"
            ),
        ],
    ],
    ids=["not valid", "not inherited", "domain", "view"],
)
def test_a_not_null_that_some_rows_evade_proves_nothing(
    make_source_tables: Any, postgres_url: str, tmp_path: Path, statements: list[str]
) -> None:
    tables = make_source_tables(postgres_url)
    tables.execute("DROP TABLE usage_counters", *statements)

    source = open_usage_source(parse_database_url(postgres_url, setting="USAGE_DATABASE_URL"))
    manifest = UsageStore(tmp_path / "usage").freeze(source, Month(2026, 10)).manifest

    assert [(row.id, row.problem) for row in manifest.bad_rows.examples] == [("2", "user_id is missing")]
    assert manifest.frozen == Totals(1, Decimal(5))


ELSEWHERE = ["CREATE FOREIGN DATA WRAPPER wrapper", "CREATE SERVER elsewhere FOREIGN DATA WRAPPER wrapper"]
PARTED = "TABLE usage_counters ({columns}) PARTITION BY RANGE (created_at)"


@pytest.mark.parametrize(
    ("statements", "is_proven"),
    [
        (["TABLE usage_counters ({columns})"], True),
        ([PARTED, "TABLE later PARTITION OF usage_counters DEFAULT"], True),
        ([PARTED, "FOREIGN TABLE later PARTITION OF usage_counters DEFAULT SERVER elsewhere"], False),
        (["FOREIGN TABLE usage_counters ({columns}) SERVER elsewhere"], False),
    ],
)
def test_a_not_null_of_a_table_or_of_its_partitions_spares_the_judging_of_rows(
    make_source_tables: Any, postgres_url: str, statements: list[str], *, is_proven: bool
) -> None:
    columns = COLUMNS.replace("user_id text", REQUIRED)
    make_source_tables(postgres_url).execute(
        "DROP TABLE usage_counters",
        *ELSEWHERE,
        *(f"CREATE {statement.format(columns=columns)}" for statement in statements),
    )
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute(COLUMNS_QUERY.format(table="usage_counters")).fetchall()

    nullable = {name: nullable for name, _, nullable in rows}
    assert nullable == {"id": True, "user_id": not is_proven, "cost_cents": True, "created_at": True}
