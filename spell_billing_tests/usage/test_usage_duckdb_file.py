"""A DuckDB file as the usage source: which schema's tables are read, and times that no month contains."""

from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.lakes import parse_usage_url
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.frozen import Totals
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER = Month(2026, 10)
CALL = "SELECT 1 AS id, 'ann' AS user_id, {cents} AS cost_cents, {moment} AS created_at"


def platform(folder: Path, *statements: str) -> UsageSource:
    file = folder / "platform.duckdb"
    with duckdb.connect(str(file)) as connection:
        for statement in statements:
            connection.execute(statement)
    return open_usage_source(parse_usage_url(f"duckdb://{file}", setting="USAGE_DATABASE_URL"))


def call(cents: int, moment: str = "TIMESTAMP '2026-10-15'") -> str:
    return CALL.format(cents=cents, moment=moment)


def test_the_default_schema_comes_before_a_copy_in_another(tmp_path: Path) -> None:
    source = platform(
        tmp_path,
        "CREATE SCHEMA archive",
        f"CREATE TABLE archive.usage_counters AS {call(1)}",
        f"CREATE TABLE archive.calls AS {call(5)}",
        "CREATE VIEW usage_counters AS FROM archive.calls",
    )

    assert UsageStore(tmp_path / "usage").freeze(source, OCTOBER).manifest.frozen == Totals(1, Decimal(5))


def test_the_only_schema_that_has_the_table_serves(tmp_path: Path) -> None:
    source = platform(
        tmp_path,
        'CREATE SCHEMA "the ""platform"""',
        f'CREATE TABLE "the ""platform""".usage_counters AS {call(5)}',
    )

    assert UsageStore(tmp_path / "usage").freeze(source, OCTOBER).manifest.frozen == Totals(1, Decimal(5))


def test_a_table_of_several_schemas_without_a_default_is_refused_by_name(tmp_path: Path) -> None:
    source = platform(
        tmp_path,
        *("CREATE SCHEMA beta", "CREATE SCHEMA archive"),
        f"CREATE TABLE beta.usage_counters AS {call(1)}",
        f"CREATE TABLE archive.Usage_Counters AS {call(5)}",
    )

    with pytest.raises(UsageError, match="usage_counters stands in the schemas archive and beta of duckdb:"):
        UsageStore(tmp_path / "usage").freeze(source, OCTOBER)


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_NS", "TIMESTAMP_S"])
@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
def test_an_infinite_time_stops_the_month(tmp_path: Path, kind: str, moment: str) -> None:
    source = platform(
        tmp_path,
        "CREATE TABLE usage_counters AS " + call(5, f"'2026-10-15'::{kind}"),
        f"INSERT INTO usage_counters VALUES (7, 'bob', 7, '{moment}'), (8, 'bob', 7, NULL)",
    )

    bad = UsageStore(tmp_path / "usage").freeze(source, OCTOBER).manifest.bad_rows

    assert [(row.id, row.problem) for row in bad.examples] == [
        ("7", "created_at is infinite"),
        ("8", "created_at is missing"),
    ]
