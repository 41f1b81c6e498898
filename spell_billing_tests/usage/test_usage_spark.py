"""Usage in a lake, added up by a real Spark cluster of two executors: the same as everywhere else.

All tests share one session, which takes longer to start than all else together.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.lakes import parse_usage_url
from spell_billing.stripe_double import StripeDouble
from spell_billing.usage.contract import SourceRules, UsageSource
from spell_billing.usage.frozen import FrozenUsage, Totals
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore
from spell_billing_tests.conftest import NO_JAVA
from spell_billing_tests.environments.servers import required_program
from spell_billing_tests.usage.spark_cluster import SMALL, running_cluster, session_options

# Of a query that fails, pyspark leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OCTOBER, NOVEMBER = Month(2025, 10), Month(2025, 11)
MIDDLE = datetime(2025, 10, 15, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a cluster, without a folder."""
    required_program("java", NO_JAVA)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setenv(name, value)
        with running_cluster(tmp_path_factory.mktemp("spark")) as master:
            yield f"spark://{master}?{session_options()}"
            from pyspark.sql import SparkSession  # noqa: PLC0415 - only where there is Java

            session = SparkSession.getActiveSession()
            if session is not None:
                session.stop()


@pytest.fixture
def spark_url(cluster: str, lake_url: str) -> str:
    """Give the URL of an empty folder that the cluster reads Parquet files from."""
    return f"{cluster}&folder={lake_url.removeprefix('duckdb://')}"


def source_of(url: str) -> UsageSource:
    rules = SourceRules(items_by="endpoint")
    return open_usage_source(parse_usage_url(url, setting="USAGE_DATABASE_URL"), rules)


def rows_in(frozen: FrozenUsage) -> list[tuple[Any, ...]]:
    (file,) = frozen.manifest.files
    names = ["user_id", "item", "calls", "cost_cents"]
    rows = pq.read_table(frozen.directory / file.name).select(names).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


def test_two_executors_freeze_what_duckdb_does(
    spark_url: str, lake_url: str, make_source_tables: Any, tmp_path: Path
) -> None:
    from pyspark.sql import SparkSession  # noqa: PLC0415 - only where there is Java

    tables = make_source_tables(spark_url, cost_cents="decimal(38, 18)", not_null=False)
    edges = (OCTOBER.start, OCTOBER.end.replace(month=10, day=31), OCTOBER.end)
    tables.calls([("ann", Decimal("0.000000000000000001"), moment) for moment in edges])
    tables.calls([("bob", Decimal("-7.5"), MIDDLE), (None, 1, MIDDLE), ("ann", None, MIDDLE)])
    tables.execute("UPDATE usage_counters SET endpoint = ' /v1/chat ' WHERE id = 1")
    spark, duck = UsageStore(tmp_path / "spark"), UsageStore(tmp_path / "duckdb")

    october = spark.freeze(source_of(spark_url), OCTOBER)

    executors = SparkSession.active().sparkContext._jsc.sc().statusTracker().getExecutorInfos()
    assert len(executors) == 3  # the driver is one of them
    assert rows_in(october) == rows_in(duck.freeze(source_of(lake_url), OCTOBER))
    assert rows_in(october)[0] == ("ann", "/v1/chat", 1, Decimal("1E-18"))
    assert october.manifest.frozen == october.manifest.control == Totals(3, Decimal("-7.499999999999999998"))
    assert october.manifest.bad_rows.count == 2


@pytest.mark.parametrize(
    ("amount", "sentence"),
    [
        ("99999999999999999.5 * (1 - i % 2 * 2)", "cannot be added up exactly in spark"),
        ("999999999999999999", r"failed: .*(overflow|OVERFLOW|out of)"),
    ],
)
def test_what_spark_cannot_add_up_exactly_is_refused(
    spark_url: str, make_source_tables: Any, tmp_path: Path, amount: str, sentence: str
) -> None:
    tables = make_source_tables(spark_url, cost_cents="decimal(38, 18)")
    tables.execute(
        "INSERT INTO usage_counters (id, user_id, cost_cents, created_at) SELECT i, 'ann', "
        f"({amount})::DECIMAL(38, 18), '2025-10-15'::TIMESTAMPTZ FROM range(1100) AS t(i)"
    )

    with pytest.raises(UsageError, match=sentence):
        UsageStore(tmp_path / "usage").freeze(source_of(spark_url), OCTOBER)


@pytest.fixture(params=["local", "remote"])
def folder_url(request: pytest.FixtureRequest, spark_url: str, lake_url: str, tmp_path: Path) -> str:
    """Give the URL of a folder on a file system that the driver reads itself, or by Hadoop alone."""
    if request.param == "local":
        return spark_url
    from pyspark.sql import SparkSession  # noqa: PLC0415 - only where there is Java

    # Hadoop has a file system of links to others, which stands for a bucket.
    assert source_of(spark_url) is not None
    with pytest.raises(UsageError, match="missing"):
        source_of(spark_url).accounts()
    settings = SparkSession.active().sparkContext._jsc.hadoopConfiguration()
    settings.set(
        f"fs.viewfs.mounttable.{tmp_path.name}.link./lake", f"file://{lake_url.removeprefix('duckdb://')}"
    )
    return f"{spark_url.partition('&folder=')[0]}&folder=viewfs://{tmp_path.name}/lake"


def write(url: str, name: str, columns: str) -> None:
    file = Path(url.removeprefix("duckdb://")) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as duck:
        duck.execute(f"COPY (SELECT {columns}) TO '{file}' (FORMAT parquet)")


CALL = "7 AS id, 5 AS cost_cents, TIMESTAMP '2025-10-15' AS created_at, '/' AS endpoint"


def test_spark_reads_every_visible_file_of_a_folder_and_users_by_name(
    folder_url: str, lake_url: str, tmp_path: Path
) -> None:
    for row_id, user in (("1", "7"), ("2", "007")):
        write(
            lake_url,
            f"Usage_Counters/user_id={user}/deep.parquet/part 1.PARQUET",
            CALL.replace("7 AS", f"{row_id} AS"),
        )
    write(lake_url, "Usage_Counters/_temporary/0/1.parquet", CALL)
    write(lake_url, "billing_accounts/a.parquet", "'7' AS user_id, 'cus_7' AS stripe_customer_id")
    write(lake_url, "billing_accounts/2025/b.parquet", "'007' AS user_id, 'cus_007' AS stripe_customer_id")

    accounts = source_of(folder_url).accounts()

    assert sorted(accounts["user_id"].to_pylist()) == ["007", "7"]
    assert rows_in(UsageStore(tmp_path / "usage").freeze(source_of(folder_url), OCTOBER)) == [
        ("007", "/", 1, Decimal(5)),
        ("7", "/", 1, Decimal(5)),
    ]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("usage_counters/3.csv", r"3\.csv is no Parquet file"),
        ("usage_counters.parquet", "usage_counters stands twice in"),
        ("usage_counters/user_id=7/1.parquet", r"0\.parquet lies in no folder user_id="),
        ("usage_counters/_delta_log/1.parquet", "is a table of Delta Lake"),
    ],
)
def test_spark_is_not_left_to_skip_files(
    folder_url: str, lake_url: str, tmp_path: Path, name: str, sentence: str
) -> None:
    write(lake_url, "usage_counters/0.parquet", f"{CALL}, '7' AS user_id")
    write(lake_url, name, CALL)

    with pytest.raises(UsageError, match=sentence):
        UsageStore(tmp_path / "usage").freeze(source_of(folder_url), OCTOBER)


def test_a_month_of_the_cluster_s_own_tables_is_billed_proven_and_explained(
    spark_url: str,
    cluster: str,
    make_source_tables: Any,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
) -> None:
    from pyspark.sql import SparkSession  # noqa: PLC0415 - only where there is Java

    tables = make_source_tables(spark_url)
    users = ("ann", "bob")
    tables.accounts({"user_id": user, "stripe_customer_id": f"cus_{user}"} for user in users)
    tables.calls([("ann", 61700, MIDDLE), ("ann", 61700, MIDDLE), ("bob", 25000, MIDDLE)])
    assert len(source_of(spark_url).accounts()) == len(users)
    session = SparkSession.active()
    session.sql(f"CREATE DATABASE platform LOCATION '{tables.folder.with_name('warehouse')}'")
    for name in ("usage_counters", "billing_accounts"):
        session.sql(f"CREATE TABLE platform.{name} USING parquet LOCATION '{tables.folder / name}'")
    master, options = cluster.split("?")
    monkeypatch.setenv("USAGE_DATABASE_URL", f"{master}/platform?{options}")

    billed = command("bill", "--month", "2025-10")

    assert billed.exit_code == 0, billed.output
    tables.calls([("bob", 100, MIDDLE), ("bob", 1, NOVEMBER.start), ("ann", 123400, NOVEMBER.start)])
    for name in ("usage_counters", "billing_accounts"):
        session.sql(f"REFRESH TABLE platform.{name}")
    billed = command("bill", "--month", "2025-11")
    assert billed.exit_code == 0, billed.output
    invoices = json.loads(command("invoices", "--month", "2025-11", "--json").stdout)
    assert [(each["user_id"], each["total_cents"]) for each in invoices] == [("ann", 123400), ("bob", 101)]
    assert command("reconcile", "--month", "2025-10").exit_code == 0
    assert command("reconcile", "--month", "2025-11").exit_code == 0
    for user, rows in {"ann": "the rows", "bob": "not the rows"}.items():
        story = command("explain", "--month", "2025-10", "--user", user).stdout
        assert f"The days are those of the rows in spark now, {rows} that were frozen." in story


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Give a function that runs a command in this process, whose Spark session all tests share."""
    from spell_billing.cli import main  # noqa: PLC0415 - heavy

    with StripeDouble().running() as double:
        for user in ("ann", "bob"):
            double.add_customer(f"cus_{user}")
        monkeypatch.setenv("SPELL_BILLING_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("STRIPE_API_BASE", double.base_url)
        monkeypatch.setenv("STRIPE_API_KEY", "sk_test_51")
        monkeypatch.delenv("DATABASE_URL", raising=False)
        assert CliRunner().invoke(main, ["init-db"]).exit_code == 0
        yield lambda *arguments: CliRunner().invoke(main, arguments)
