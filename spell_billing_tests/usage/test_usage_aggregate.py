"""Aggregation, explanation and the drafting stream: exact sums, every user once, bounded memory."""

import hashlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.core.month import Month
from spell_billing.usage.aggregate import UserUsage, aggregate, rows_of_user
from spell_billing.usage.amounts import exact_sum
from spell_billing.usage.contract import ACCOUNTS_SCHEMA
from spell_billing.usage.disk import finished_file
from spell_billing.usage.frozen import BadRows, DayUsage, FrozenUsage, Manifest, Totals
from spell_billing.usage.tables import is_rising, texts
from spell_billing.usage.user_usage import HASH_FILE, iter_user_drafting_input

OCTOBER = Month(2026, 10)
NOON = datetime(2026, 10, 15, 12, tzinfo=UTC)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    directory = tmp_path / "2026-10" / "v0001"
    directory.mkdir(parents=True)
    return directory


def frozen_with(directory: Path, rows: list[tuple[str, Any, datetime]], kind: pa.DataType) -> FrozenUsage:
    users, costs, moments = zip(*rows, strict=True) if rows else ((), (), ())
    cost_cents = pa.array(costs, kind)
    path = directory / "rows.parquet"
    table = pa.table(
        {
            "id": range(len(rows)),
            "user_id": pa.array(users, pa.string()),
            "cost_cents": cost_cents,
            "created_at": pa.array(moments, pa.timestamp("us", tz="UTC")),
        }
    )
    pq.write_table(table, path)
    totals = Totals(len(rows), exact_sum(cost_cents))
    manifest = Manifest(
        format_version=1,
        month=OCTOBER,
        frozen_at=datetime(2026, 11, 1, tzinfo=UTC),
        backend="postgresql",
        cost_scale=getattr(kind, "scale", 0),
        frozen=totals,
        control=totals,
        files=(finished_file(path, len(rows)),),
        late=None,
        late_checked=(),
        bad_rows=BadRows(0, ()),
    )
    return FrozenUsage(OCTOBER, "v0001", directory, manifest)


@given(
    costs=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50)
    | st.lists(st.integers(-1000, 1000), max_size=50)
)
def test_column_sums_of_64_bit_amounts_never_wrap(costs: list[int]) -> None:
    assert exact_sum(pa.array(costs, pa.int64())) == sum(costs)


@given(costs=st.lists(st.decimals(-(10**18) + 1, 10**18 - 1, places=18), max_size=50))
def test_column_sums_of_decimals_are_exact(costs: list[Decimal]) -> None:
    with localcontext(prec=76):
        assert exact_sum(pa.array(costs, pa.decimal128(38, 18))) == sum(costs, Decimal(0))


def test_users_are_added_up_in_order_and_exactly(version: Path) -> None:
    largest = 2**63 - 1
    rows = [("user-b", largest, NOON)] * 3 + [("user-a", 5, NOON), ("user-c", -7, NOON)]
    frozen = frozen_with(version, rows, pa.int64())

    found = aggregate(frozen)

    assert (found.users, found.totals) == (3, Totals(5, Decimal(3 * largest - 2)))
    assert found.largest == (
        UserUsage("user-b", 3, Decimal(3 * largest)),
        UserUsage("user-a", 1, Decimal(5)),
        UserUsage("user-c", 1, Decimal(-7)),
    )
    written = pq.read_table(found.path)
    assert written["user_id"].to_pylist() == ["user-a", "user-b", "user-c"]
    assert written["cost_cents"].to_pylist() == [Decimal(5), Decimal(3 * largest), Decimal(-7)]


def test_the_same_rows_aggregate_to_the_same_bytes(version: Path) -> None:
    rows = [(f"user-{index % 1000:04d}", index, NOON) for index in range(5000)]
    frozen = frozen_with(version, rows, pa.int64())

    contents = [aggregate(frozen).path.read_bytes() for _ in range(3)]

    assert contents[0] == contents[1] == contents[2]


@given(ids=st.lists(st.text(max_size=3) | st.none(), max_size=4))
def test_ids_rise_when_each_is_greater_than_the_one_before(ids: list[str | None]) -> None:
    rising = sorted({each for each in ids if each is not None}, key=str.encode)

    assert is_rising(pa.chunked_array([texts(rising)]))
    assert is_rising(pa.chunked_array([texts(ids)])) == (ids == rising)


def test_a_sum_beyond_38_digits_is_an_error_and_never_wraps(version: Path) -> None:
    absurd = Decimal("99999999999999999999.999999999999999999")
    rows = [("user-1", absurd, NOON)] * 2
    frozen = frozen_with(version, rows, pa.decimal128(38, 18))

    with pytest.raises(UsageError, match="exceeds 38 digits"):
        aggregate(frozen)

    assert not (version / "user_usage.parquet").exists()


def test_users_that_do_not_add_up_to_the_frozen_rows_are_refused(version: Path) -> None:
    frozen = frozen_with(version, [("user-1", 5, NOON)], pa.int64())
    frozen_with(version, [("user-1", 6, NOON)], pa.int64())

    with pytest.raises(IntegrityError, match=r"1 calls of 6 cents, the frozen rows to 1 calls of 5 cents"):
        aggregate(frozen)
    assert not (version / "user_usage.parquet").exists()


def test_aggregation_stays_within_its_memory_and_cleans_up(version: Path) -> None:
    rows = [(f"user-{index:07d}", 1, NOON) for index in range(200_000)]
    frozen = frozen_with(version, rows, pa.int64())

    assert aggregate(frozen, memory_limit_bytes=96 << 20).users == 200_000
    assert [path.name for path in version.parent.iterdir()] == ["v0001"]


def test_a_user_s_month_is_explained_by_day_in_utc(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    frozen = frozen_with(
        version,
        [
            ("user-1", Decimal("0.25"), OCTOBER.start),
            ("user-1", Decimal("0.50"), OCTOBER.start + timedelta(hours=23, minutes=59)),
            ("user-1", Decimal("1.00"), OCTOBER.end - timedelta(microseconds=1)),
            ("user-2", Decimal("9.99"), NOON),
        ],
        pa.decimal128(18, 2),
    )

    assert rows_of_user(frozen, "user-1") == [
        DayUsage(date(2026, 10, 1), 2, Decimal("0.75")),
        DayUsage(date(2026, 10, 31), 1, Decimal(1)),
    ]
    assert rows_of_user(frozen, "nobody' OR 1=1 --") == []


def accounts_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{"currency": "usd", **row} for row in rows], schema=ACCOUNTS_SCHEMA)


def test_drafting_reads_every_user_once_with_account_and_exact_cost(version: Path) -> None:
    rows = [("user-1", Decimal("5.50"), NOON), ("user-2", Decimal(6), NOON), ("user-1", Decimal(1), NOON)]
    frozen = frozen_with(version, rows, pa.decimal128(18, 2))
    aggregate(frozen)
    accounts = accounts_of(
        {"user_id": "user-1", "stripe_customer_id": "cus_1", "plan_name": "Pro", "included_cents": 100},
        {"user_id": "idle", "stripe_customer_id": "cus_2"},
    )

    batches = list(
        iter_user_drafting_input(
            frozen,
            accounts,
            batch_size=2,
            extra_users=["credit-only", "user-2", "credit-only"],
        )
    )

    people = [row for batch in batches for row in batch.to_pylist()]
    assert [
        (row["user_id"], row["calls"], Decimal(row["cost_cents"]), row["account_known"]) for row in people
    ] == [
        ("credit-only", 0, Decimal(0), False),
        ("user-1", 2, Decimal("6.50"), True),
        ("user-2", 1, Decimal(6), False),
    ]
    assert people[1]["included_cents"] == 100
    assert people[2]["stripe_customer_id"] is None


def test_drafting_without_anybody_is_empty(version: Path) -> None:
    frozen = frozen_with(version, [], pa.int64())
    aggregate(frozen)

    assert sum(batch.num_rows for batch in iter_user_drafting_input(frozen, accounts_of())) == 0


def test_drafting_before_aggregation_is_refused(version: Path) -> None:
    frozen = frozen_with(version, [], pa.int64())

    with pytest.raises(UsageError, match="was not aggregated"):
        next(iter_user_drafting_input(frozen, accounts_of()))


@pytest.mark.parametrize(
    ("lost", "refused", "text"),
    [([], IntegrityError, "not what was aggregated"), ([HASH_FILE], UsageError, "was not aggregated")],
)
def test_users_exchanged_after_aggregation_are_not_billed(
    version: Path, lost: list[str], refused: type[Exception], text: str
) -> None:
    """The sums are the same, and the frozen rows are what was frozen."""
    frozen = frozen_with(version, [("user-1", 5, NOON), ("user-2", 7, NOON)], pa.int64())
    path = aggregate(frozen).path
    users = pq.read_table(path)
    pq.write_table(users.set_column(0, "user_id", users["user_id"].take([1, 0])).sort_by("user_id"), path)
    for name in lost:
        (version / name).unlink()

    with pytest.raises(refused, match=text):
        next(iter_user_drafting_input(frozen, accounts_of()))

    aggregate(frozen)
    (batch,) = iter_user_drafting_input(frozen, accounts_of())
    assert [(row["user_id"], row["cost_cents"]) for row in batch.to_pylist()] == [
        ("user-1", "5"),
        ("user-2", "7"),
    ]


def test_the_hash_of_the_users_is_one_that_sha256sum_reads(version: Path) -> None:
    path = aggregate(frozen_with(version, [("user-1", 5, NOON)], pa.int64())).path

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (version / HASH_FILE).read_text() == f"{digest}  user_usage.parquet\n"
    assert [each.name for each in version.parent.rglob("*.sha256")] == [HASH_FILE]


def test_drafting_reads_batches_of_the_size_asked_for_in_order(version: Path) -> None:
    frozen = frozen_with(version, [(f"user-{index:06d}", 1, NOON) for index in range(2_500)], pa.int64())
    aggregate(frozen)

    batches = list(
        iter_user_drafting_input(frozen, accounts_of(), batch_size=1000, extra_users=["a", "user-001000x"])
    )

    assert max(batch.num_rows for batch in batches) == 1000
    users = [user for batch in batches for user in batch["user_id"].to_pylist()]
    assert users == sorted([f"user-{index:06d}" for index in range(2_500)] + ["a", "user-001000x"])
