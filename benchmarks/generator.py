"""Makes usage to measure on: two months of calls, the second of them billed, users skewed, from a seed.

Two calls of one user follow no pattern, and few users make most calls: user number `users * u ** 3` for an
even `u`, so a tenth of the users makes 46 % of the calls, and the last tenth 3.5 %.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import psycopg

from spell_billing.core.month import Month

if TYPE_CHECKING:
    import pyarrow as pa

MONTH = Month(2026, 10)
SEED = 0.42
_SKEW = 3
_LARGEST_COST_CENTS = 40
_SQLITE_BATCH_ROWS = 500_000
_BATCH_ROWS = 1_000_000

USER_TYPES = ("uuid", "text")
COST_TYPES = ("bigint", "numeric")


@dataclass(frozen=True, slots=True)
class Size:
    """How much usage: rows of the billed month, rows of the month before it, and users."""

    rows: int
    rows_before: int
    users: int


def fill_postgres(
    url: str, size: Size, *, user_type: str = "uuid", cost_type: str = "bigint", evenly: bool = False
) -> None:
    """Create and fill `usage_counters` and `billing_accounts`, indexed and vacuumed. 20 M rows: about 90 s.

    Args:
        url: Of an empty database.
        size: How much.
        user_type: `uuid`, or `text` (`user-0000001`).
        cost_type: `bigint`, or `numeric` (with three decimal places of a cent).
        evenly: Every user makes as many calls as every other.
    """
    name = "md5('user-' || number)::uuid" if user_type == "uuid" else "'user-' || lpad(number::text, 7, '0')"
    number = f"row % {size.users}" if evenly else f"floor({size.users} * random() ^ {_SKEW})::bigint"
    cents = f"(random() * {_LARGEST_COST_CENTS})"
    cost = f"{cents}::bigint" if cost_type == "bigint" else f"round({cents}::numeric, 3)"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"CREATE TABLE usage_counters (id bigint NOT NULL, user_id {user_type} NOT NULL, "
            f"cost_cents {cost_type} NOT NULL, created_at timestamptz NOT NULL)"
        )
        connection.execute(f"SELECT setseed({SEED})")
        first_id = 1
        for month, rows in ((MONTH.previous(), size.rows_before), (MONTH, size.rows)):
            if rows == 0:
                continue
            step = (month.end - month.start) / rows
            connection.execute(
                f"INSERT INTO usage_counters SELECT {first_id} + row, {name}, {cost}, "
                f"timestamptz '{month.start}' + row * interval '{step.total_seconds():.9f} seconds' "
                f"FROM (SELECT row, {number} AS number FROM generate_series(0, {rows - 1}) AS row) AS calls"
            )
            first_id += rows
        connection.execute("ALTER TABLE usage_counters ADD PRIMARY KEY (id)")
        connection.execute("CREATE INDEX ON usage_counters (created_at)")
        connection.execute(
            f"CREATE TABLE billing_accounts AS SELECT {name} AS user_id, 'cus_' || number AS "
            "stripe_customer_id, 'usd' AS currency, 'user-' || number || '@example.com' AS email "
            f"FROM generate_series(0, {size.users - 1}) AS number"
        )
        connection.execute("ALTER TABLE billing_accounts ADD PRIMARY KEY (user_id)")
        connection.execute("VACUUM (ANALYZE, FREEZE)")
        connection.execute("CHECKPOINT")


def skewed_users(random: np.random.Generator, rows: int, users: int) -> npt.NDArray[np.int64]:
    """Draw the number of each row's user."""
    return (users * random.random(rows) ** _SKEW).astype(np.int64)


def batches(random: np.random.Generator, names: "pa.Array", rows: int) -> Iterator["pa.RecordBatch"]:
    """Make the month's rows for users of these names, in order of time, without a database."""
    import pyarrow as pa  # noqa: PLC0415 - not into the parent's memory

    moment = pa.timestamp("us", tz="UTC")
    start_us = int(MONTH.start.timestamp() * 1e6)
    step_us = (MONTH.end - MONTH.start).total_seconds() * 1e6 / rows
    for first in range(0, rows, _BATCH_ROWS):
        numbers = np.arange(first, min(first + _BATCH_ROWS, rows))
        users = pa.array(skewed_users(random, len(numbers), len(names)))
        yield pa.RecordBatch.from_pydict(
            {
                "id": pa.array(numbers),
                "user_id": names.take(users),
                "cost_cents": pa.array(random.integers(0, _LARGEST_COST_CENTS + 1, len(numbers))),
                "created_at": pa.array(start_us + (numbers * step_us).astype(np.int64)).cast(moment),
            }
        )


def fill_sqlite(path: Path, size: Size, *, evenly: bool = False) -> None:
    """Create and fill the same tables in a new SQLite file: text ids, whole cents, times as text."""
    random = np.random.default_rng(int(SEED * 100))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "CREATE TABLE usage_counters (id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, "
            "cost_cents INTEGER NOT NULL, created_at TEXT NOT NULL)"
        )
        for month, rows in ((MONTH.previous(), size.rows_before), (MONTH, size.rows)):
            for first in range(0, rows, _SQLITE_BATCH_ROWS):
                count = min(_SQLITE_BATCH_ROWS, rows - first)
                numbers = (
                    np.arange(first, first + count) % size.users
                    if evenly
                    else skewed_users(random, count, size.users)
                )
                costs = random.integers(0, _LARGEST_COST_CENTS + 1, count)
                connection.executemany(
                    "INSERT INTO usage_counters (user_id, cost_cents, created_at) VALUES (?, ?, ?)",
                    zip(
                        (f"user-{number:07d}" for number in numbers.tolist()),
                        costs.tolist(),
                        _times(month, first, count, rows),
                        strict=True,
                    ),
                )
                connection.commit()
        connection.execute("CREATE INDEX usage_counters_created_at ON usage_counters (created_at)")
        connection.execute(
            "CREATE TABLE billing_accounts (user_id TEXT PRIMARY KEY, stripe_customer_id TEXT, "
            "currency TEXT, email TEXT)"
        )
        connection.executemany(
            "INSERT INTO billing_accounts VALUES (?, ?, 'usd', ?)",
            (
                (f"user-{number:07d}", f"cus_{number}", f"user-{number}@example.com")
                for number in range(size.users)
            ),
        )
        connection.commit()
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _times(month: Month, first: int, count: int, rows: int) -> list[str]:
    """Give the times of some of the month's rows, which are spread evenly over it."""
    start_us = int(month.start.timestamp() * 1e6)
    step_us = (month.end - month.start).total_seconds() * 1e6 / rows
    moments = start_us + (np.arange(first, first + count) * step_us).astype(np.int64)
    texts: list[str] = np.datetime_as_string(moments.astype("datetime64[us]")).tolist()
    return [text.replace("T", " ") for text in texts]
