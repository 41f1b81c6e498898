"""What only PostgreSQL can do wrong: numeric amounts, time zones, roles, several connections."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.settings.databases import parse_database_url
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.frozen import FrozenUsage, Totals
from spell_billing.usage.source import open_usage_source
from spell_billing.usage.store import UsageStore

OCTOBER = Month(2026, 10)
MIDDLE = datetime(2026, 10, 15, 12, tzinfo=UTC)

amounts = st.one_of(
    st.decimals(-1000, 1000, places=3),
    st.decimals(-(10**17), 10**17, places=4),
    st.decimals(0, 1, places=18),
    st.integers(-(10**18) + 1, 10**18 - 1).map(Decimal),
    st.sampled_from(
        [Decimal("0.000000000000000001"), Decimal("999999999999999999.999999999999999999"), Decimal(0)]
    ),
)


@pytest.fixture
def freeze(postgres_url: str, tmp_path: Path) -> Callable[..., FrozenUsage]:
    """Give a function that freezes October, or another month, from the test's database."""
    source = open_usage_source(parse_database_url(postgres_url, setting="USAGE_DATABASE_URL"))
    store = UsageStore(tmp_path / "usage")
    return lambda month=OCTOBER, **options: store.freeze(source, month, **options)


def costs_of(frozen: FrozenUsage) -> list[Any]:
    table = pq.read_table(frozen.directory / frozen.manifest.files[0].name)
    return sorted(table["cost_cents"].to_pylist())


@settings(max_examples=25)
@given(costs=st.lists(amounts, min_size=1, max_size=30))
def test_numeric_costs_are_frozen_and_added_to_the_last_digit(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage], costs: list[Decimal]
) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP TABLE IF EXISTS usage_counters")
    tables = make_source_tables(postgres_url, cost_cents="numeric", accounts=False, plans=False)
    tables.calls([(f"user-{index % 3}", cost, MIDDLE) for index, cost in enumerate(costs)])

    frozen = freeze()

    assert costs_of(frozen) == sorted(costs)
    # Python's default context rounds a sum to 28 digits.
    with localcontext(prec=76):
        assert frozen.manifest.frozen == Totals(len(costs), sum(costs, Decimal(0)))
        assert {one.user_id: one.cost_cents for one in aggregate(frozen).largest} == {
            f"user-{user}": sum(costs[user::3], Decimal(0)) for user in range(min(3, len(costs)))
        }


@pytest.mark.parametrize(
    ("costs", "kept"),
    [
        (["12.00", "7"], pa.int64()),
        (["12.5", "7.125"], pa.decimal64(18, 3)),
        (["999999999999999999", "0.5"], pa.decimal128(38, 1)),
    ],
)
def test_numeric_costs_are_kept_in_the_smallest_exact_type(
    make_source_tables: Any,
    postgres_url: str,
    freeze: Callable[..., FrozenUsage],
    costs: list[str],
    kept: pa.DataType,
) -> None:
    tables = make_source_tables(postgres_url, cost_cents="numeric")
    tables.calls([("user-1", Decimal(cost), MIDDLE) for cost in costs])

    frozen = freeze()

    schema = pq.read_schema(frozen.directory / frozen.manifest.files[0].name)
    written = schema.field("cost_cents").type
    assert getattr(written, "scale", 0) == getattr(kept, "scale", 0) == frozen.manifest.cost_scale
    assert costs_of(frozen) == sorted(Decimal(cost) for cost in costs)


@pytest.mark.parametrize(
    ("cost", "problem"),
    [
        ("NaN", "cost_cents is NaN, not a number"),
        ("Infinity", "cost_cents is Infinity, not a number"),
        ("-Infinity", "cost_cents is -Infinity, not a number"),
        ("1e18", "cost_cents is too large"),
        ("-1e18", "cost_cents is too large"),
        ("0.0000000000000000001", "cost_cents has more than 18 decimal places"),
    ],
)
def test_a_numeric_cost_that_is_no_amount_is_a_bad_row(
    make_source_tables: Any,
    postgres_url: str,
    freeze: Callable[..., FrozenUsage],
    cost: str,
    problem: str,
) -> None:
    tables = make_source_tables(postgres_url, cost_cents="numeric")
    tables.calls([("user-1", Decimal("1.5"), MIDDLE), ("user-1", Decimal(cost), MIDDLE)])

    manifest = freeze().manifest

    assert [(row.id, row.problem) for row in manifest.bad_rows.examples] == [("2", problem)]
    assert manifest.frozen == Totals(1, Decimal("1.5"))


def test_an_amount_in_one_half_of_a_month_alone_decides_how_both_are_kept(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(postgres_url, cost_cents="numeric")
    costs = [Decimal(999999999999999999), Decimal("0.5"), Decimal("NaN")]
    tables.calls(zip(["user-1"] * 3, costs, [OCTOBER.start, MIDDLE, MIDDLE], strict=True))

    frozen = freeze()

    assert costs_of(frozen) == sorted(costs[:2])
    assert frozen.manifest.control == Totals(2, Decimal("999999999999999999.5"))
    assert frozen.manifest.bad_rows.count == 1


def test_a_row_without_an_id_is_billed(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(postgres_url, id="uuid", not_null=False)
    name = "0b5c1f62-7a53-4a52-9d9e-0d5a4f5a2c11"
    tables.execute(
        "ALTER TABLE usage_counters DROP CONSTRAINT usage_counters_pkey",
        "ALTER TABLE usage_counters ALTER COLUMN id DROP NOT NULL",
        "INSERT INTO usage_counters (id, user_id, cost_cents, created_at) VALUES "
        f"(NULL, 'user-1', 5, '{MIDDLE}'), ('{name}', 'user-1', 6, '{MIDDLE}')",
    )

    frozen = freeze()

    table = pq.read_table(frozen.directory / frozen.manifest.files[0].name)
    assert {str(row["id"]): row["cost_cents"] for row in table.to_pylist()} == {"None": 5, name: 6}


@pytest.mark.parametrize("cost_type", ["smallint", "integer", "bigint", "numeric(12,4)", "positive_cents"])
def test_every_exact_type_serves_domains_included(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage], cost_type: str
) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE DOMAIN positive_cents AS integer CHECK (value >= 0)")
    make_source_tables(postgres_url, cost_cents=cost_type).calls([("user-1", 12, MIDDLE)])

    frozen = freeze()

    assert (costs_of(frozen), frozen.manifest.cost_scale) == ([12], 0)


@pytest.mark.parametrize("cost_type", ["real", "double precision", "money", "text"])
def test_an_inexact_cost_type_is_refused(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage], cost_type: str
) -> None:
    make_source_tables(postgres_url, cost_cents=cost_type)

    with pytest.raises(UsageError, match=r"usage_counters\.cost_cents has the type .*billed exactly"):
        freeze()


def test_a_time_type_without_a_moment_is_refused(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage]
) -> None:
    make_source_tables(postgres_url, created_at="date")

    with pytest.raises(UsageError, match=r"usage_counters\.created_at has the type date"):
        freeze()


@pytest.mark.parametrize("time_type", ["timestamptz", "timestamp"])
def test_the_session_s_time_zone_moves_no_row(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage], time_type: str
) -> None:
    tables = make_source_tables(postgres_url, created_at=time_type)
    tables.calls([("user-1", 1, OCTOBER.start), ("user-1", 2, OCTOBER.end)])
    name = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    tables.execute(
        f"ALTER DATABASE {name} SET timezone = 'Pacific/Kiritimati'",
        f"ALTER DATABASE {name} SET datestyle = 'SQL, DMY'",
    )

    assert freeze().manifest.frozen == Totals(1, Decimal(1))
    assert freeze(OCTOBER.next()).manifest.frozen == Totals(1, Decimal(2))


def test_an_infinite_time_belongs_to_no_month_and_stops_every_month(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage]
) -> None:
    tables = make_source_tables(postgres_url)
    tables.calls([("user-1", 1, "infinity"), ("user-1", 1, "-infinity")])

    for month in (OCTOBER, Month(2020, 1)):
        bad = freeze(month).manifest.bad_rows
        assert (bad.count, bad.examples[0].problem) == (2, "created_at is infinite")


def test_a_role_that_may_not_read_is_named_with_the_remedy(
    make_source_tables: Any, postgres_url: str, tmp_path: Path
) -> None:
    tables = make_source_tables(postgres_url)
    role = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    tables.execute(f"CREATE ROLE {role} LOGIN")
    url = parse_database_url(postgres_url.replace("postgres:@", f"{role}@"), setting="USAGE_DATABASE_URL")
    try:
        with pytest.raises(UsageError, match="may not read id, user_id, cost_cents, created_at of") as caught:
            UsageStore(tmp_path / "usage").freeze(open_usage_source(url), OCTOBER)
    finally:
        tables.execute(f"DROP ROLE {role}")
    assert "GRANT SELECT" in caught.value.remedy


def test_a_role_with_a_single_connection_freezes_the_same(
    make_source_tables: Any, postgres_url: str, tmp_path: Path
) -> None:
    tables = make_source_tables(postgres_url)
    tables.calls([("user-1", 1, OCTOBER.start), ("user-1", 2, MIDDLE), ("user-1", 4, OCTOBER.end)])
    role = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    tables.execute(
        f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1",
        f"GRANT SELECT ON usage_counters, billing_accounts, billing_plans TO {role}",
    )
    url = parse_database_url(postgres_url.replace("postgres:@", f"{role}@"), setting="USAGE_DATABASE_URL")
    try:
        frozen = UsageStore(tmp_path / "usage").freeze(open_usage_source(url), OCTOBER)
    finally:
        tables.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert frozen.manifest.frozen == Totals(2, Decimal(3))


def test_the_halves_of_a_month_meet_without_gap_or_overlap(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage]
) -> None:
    seam = OCTOBER.start + (OCTOBER.end - OCTOBER.start) / 2
    moments = [seam.replace(microsecond=0), seam.replace(hour=11, minute=59, second=59, microsecond=999_999)]
    make_source_tables(postgres_url).calls([("user-1", 1, moment) for moment in moments])

    assert freeze().manifest.frozen == Totals(2, Decimal(2))


@pytest.mark.parametrize("half", [0, 1])
def test_a_month_with_all_its_rows_in_one_half_is_frozen_whole(
    make_source_tables: Any, postgres_url: str, freeze: Callable[..., FrozenUsage], half: int
) -> None:
    tables = make_source_tables(postgres_url)
    moment = (OCTOBER.start, MIDDLE)[half]
    tables.execute(
        "INSERT INTO usage_counters (user_id, cost_cents, created_at) "
        f"SELECT 'user-' || number % 7, 1, '{moment}' FROM generate_series(1, 1000000) AS number"
    )

    assert freeze().manifest.frozen == Totals(1_000_000, Decimal(1_000_000))
