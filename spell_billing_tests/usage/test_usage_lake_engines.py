"""Engines of a lake: the SQL of each, and what names none is refused."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import ibis
import ibis.expr.datatypes as dt
import pytest
import sqlglot

from spell_billing.core.errors import SettingsError
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUnreachableError
from spell_billing.settings.lakes import LakeUrl, parse_usage_url
from spell_billing.usage.frozen import Detail
from spell_billing.usage.lake_engines import IBIS_NAMES
from spell_billing.usage.lake_sql import DIALECTS, LakeSql
from spell_billing_tests.usage.test_usage_lake import source_of

OCTOBER = Month(2026, 10)
MIDDLE = datetime(2026, 10, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize("engine", list(DIALECTS))
@pytest.mark.parametrize("kind", ["int64", "decimal(20, 4)", "decimal(38, 9)"])
def test_every_engine_s_sql_is_compiled_and_parses(engine: str, kind: str) -> None:
    name = IBIS_NAMES.get(engine, engine)
    columns = {"id": "string", "user_id": "int64", "cost_cents": kind, "created_at": dt.Timestamp("UTC", 6)}
    usage = ibis.table({**columns, "endpoint": "string", "quantity": "decimal(12, 3)"}, name="usage_counters")
    sql, detail = LakeSql(usage, DIALECTS[engine]), Detail("endpoint", has_quantity=True)
    queries = [
        sql.control(OCTOBER),
        sql.users(OCTOBER, detail, fingerprint=True),
        sql.days("7", OCTOBER),
        sql.bad_rows(OCTOBER).order_by("id").limit(20),
        sql.timeless(),
        sql.repeated("id", OCTOBER).order_by("value").limit(20),
        sql.inexact_quantities(OCTOBER),
        *sql.outside(MIDDLE, OCTOBER.start),
        sql.calls(OCTOBER),
    ]

    texts = [str(ibis.to_sql(each, dialect=name)) for each in queries]

    for text in texts:
        sqlglot.parse_one(text, dialect={"pyspark": "spark"}.get(name, name))
        # A float, or a count that only some engines make exact, has no place in an amount.
        assert not any(word in text.upper() for word in ("FLOAT", "UNIQ(", "APPROX", "AVG("))
    assert "DOUBLE" not in texts[0].upper() + texts[1].upper()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("duckdb://folder", "names no folder of Parquet files"),
        ("duckdb:///", "names no folder of Parquet files"),
        ("spark://host:7077?colour=red", "has the option colour"),
        ("spark://me:secret@host:7077", "has a user"),
        ("iceberg:///warehouse", "neither PostgreSQL nor SQLite"),
    ],
)
def test_urls_that_name_no_source_are_refused_without_what_is_secret(url: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as refused:
        parse_usage_url(url, setting="USAGE_DATABASE_URL")
    assert "secret" not in str(refused.value)


def test_a_password_is_never_shown() -> None:
    url = parse_usage_url("clickhouse://me:s%40cret@host:8443/db?token=secret", setting="USAGE_DATABASE_URL")
    assert isinstance(url, LakeUrl)
    assert (str(url), "secret" in repr(url)) == ("clickhouse://me:***@host:8443/db", False)
    assert url.secrets == ["s%40cret", "s@cret", "secret"]


def test_what_is_not_there_or_not_installed_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DatabaseUnreachableError, match="there is no such folder or file"):
        source_of(f"duckdb://{tmp_path / 'none'}").accounts()
    monkeypatch.setitem(sys.modules, "ibis.backends.trino", None)
    with pytest.raises(SettingsError, match="trino, whose client is not installed") as missing:
        source_of("trino://me@host/catalog/schema").accounts()
    assert "ibis-framework[trino]" in missing.value.remedy
    for name in [each for each in sys.modules if each.startswith("spell_billing.usage.lake")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ibis", None)
    with pytest.raises(SettingsError, match="Ibis is not installed"):
        source_of("duckdb:///lake")
