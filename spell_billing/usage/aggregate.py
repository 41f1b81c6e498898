"""Adds up frozen rows per user, out of core and exactly, and explains one user's month by day."""

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb

from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.usage.amounts import exact
from spell_billing.usage.contract import USER_USAGE_FILE, FrozenUsage, Totals
from spell_billing.usage.duck import (
    MEMORY_LIMIT_BYTES,
    SPILL_PREFIX,
    open_duckdb,
    parquet_list,
    quoted,
)
from spell_billing.usage.user_usage import keep_user_usage

LARGEST_USERS = 10
_DAY_MICROSECONDS = 86_400_000_000
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class UserUsage:
    """One user's month: number of calls and exact cost in (possibly fractional) cents."""

    user_id: str
    calls: int
    cost_cents: Decimal


@dataclass(frozen=True, slots=True)
class DayUsage:
    """One user's day (UTC): number of calls and exact cost in (possibly fractional) cents."""

    day: date
    calls: int
    cost_cents: Decimal


@dataclass(frozen=True, slots=True)
class UserTotals:
    """What aggregation found: users, their calls and cost in all, and the most expensive of them."""

    path: Path
    users: int
    totals: Totals
    largest: tuple[UserUsage, ...]


def aggregate_verified(
    frozen: FrozenUsage, verify: Callable[[FrozenUsage], None], *, largest: int = LARGEST_USERS
) -> UserTotals:
    """Do `aggregate`, and keep the result only where the frozen files are what was frozen.

    Equal sums do not prove that: rows may have changed users. The processors share both.

    Args:
        frozen: The version.
        verify: Raises for files that were altered; see `UsageStore.verify`.
        largest: How many of the most expensive users to name.

    Raises:
        IntegrityError: a file was altered, or the users do not add up.
        UsageError: a sum exceeds 38 digits.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="verify") as beside:
        verifying = beside.submit(verify, frozen)
        try:
            return aggregate(frozen, largest=largest, before_keeping=verifying.result)
        except Exception:
            # That a file was altered says more than what came of it.
            verifying.result()
            raise


def aggregate(
    frozen: FrozenUsage,
    *,
    largest: int = LARGEST_USERS,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    before_keeping: Callable[[], None] = lambda: None,
) -> UserTotals:
    """Write `user_usage.parquet` and its hash into the version: user_id, calls, cost_cents; by user_id.

    Args:
        frozen: The version.
        largest: How many of the most expensive users to name.
        memory_limit_bytes: What DuckDB's buffers may take.
        before_keeping: Called when all is added up; the file appears only if it raises nothing.

    Raises:
        UsageError: a sum exceeds 38 digits.
        IntegrityError: the users do not add up to the frozen rows.
    """
    with (
        tempfile.TemporaryDirectory(prefix=SPILL_PREFIX, dir=frozen.directory.parent) as workplace,
        _opened(frozen, memory_limit_bytes) as duck,
    ):
        unfinished = Path(workplace) / USER_USAGE_FILE
        duck.execute(
            "COPY (SELECT user_id::VARCHAR AS user_id, count(*) AS calls, "
            f"sum(cost_cents)::{_amount_type(frozen)} AS cost_cents FROM {_rows(frozen)} "
            f"GROUP BY user_id ORDER BY 1) TO {quoted(unfinished)} (FORMAT parquet, COMPRESSION zstd)"
        )
        users = parquet_list([unfinished])
        (count, calls, cost), *_ = duck.execute(
            f"SELECT count(*), coalesce(sum(calls), 0), coalesce(sum(cost_cents), 0) FROM {users}"
        ).fetchall()
        top = duck.execute(
            f"SELECT user_id, calls, cost_cents FROM {users} "
            f"ORDER BY cost_cents DESC, user_id LIMIT {largest}"
        ).fetchall()
        totals = Totals(int(calls), exact(str(cost)))
        _require_equal(frozen, totals)
        before_keeping()
        path = keep_user_usage(unfinished, frozen.directory)
    return UserTotals(
        path,
        count,
        totals,
        tuple(UserUsage(user, calls, exact(str(cost))) for user, calls, cost in top),
    )


def _require_equal(frozen: FrozenUsage, totals: Totals) -> None:
    if totals != frozen.manifest.frozen:
        raise IntegrityError(
            f"{frozen.month}/{frozen.version}: the users add up to {totals.calls} calls of "
            f"{totals.cost_cents:f} cents, the frozen rows to {frozen.manifest.frozen.calls} calls of "
            f"{frozen.manifest.frozen.cost_cents:f} cents.",
            remedy="Verify the frozen files; restore them from a backup if they were altered.",
        )


def rows_of_user(frozen: FrozenUsage, user_id: str) -> list[DayUsage]:
    """Give a user's calls and exact cost per day (UTC), from the frozen rows."""
    with _opened(frozen, MEMORY_LIMIT_BYTES) as duck:
        # Days are counted from the epoch: a DATE cast would follow the session's time zone.
        days = duck.execute(
            f"SELECT epoch_us(created_at) // {_DAY_MICROSECONDS} AS day, count(*), "
            f"sum(cost_cents)::{_amount_type(frozen)} FROM {_rows(frozen)} "
            "WHERE user_id::VARCHAR = $user_id GROUP BY day ORDER BY day",
            {"user_id": user_id},
        ).fetchall()
    return [DayUsage(date.fromordinal(_EPOCH + day), calls, exact(str(cost))) for day, calls, cost in days]


def _amount_type(frozen: FrozenUsage) -> str:
    """Give the SQL type of a sum of the version's amounts."""
    return f"DECIMAL(38, {frozen.manifest.cost_scale})"


def _rows(frozen: FrozenUsage) -> str:
    return parquet_list([frozen.directory / file.name for file in frozen.manifest.files])


@contextmanager
def _opened(frozen: FrozenUsage, memory_limit_bytes: int) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_duckdb(frozen.directory.parent, memory_limit_bytes=memory_limit_bytes) as duck:
        try:
            yield duck
        except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
            raise UsageError(
                f"{frozen.month}/{frozen.version}: a user's sum exceeds 38 digits: {error}.",
                remedy="Find and correct the absurd amounts in the usage table, and freeze the month again.",
            ) from error
        except duckdb.IOException as error:
            raise UsageError(
                f"{frozen.month}/{frozen.version} cannot be added up: {str(error).partition(chr(10))[0]}.",
                remedy=f"Make room in {frozen.directory.parent}, and see that it can be written to.",
            ) from error
