"""Adds up frozen rows per user, out of core and exactly, and explains one user's month by day."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from spell_billing.core.errors import IntegrityError, UsageError
from spell_billing.core.items import ItemUsage
from spell_billing.usage.amounts import exact
from spell_billing.usage.duck import (
    MEMORY_LIMIT_BYTES,
    SPILL_PREFIX,
    UTC_DAY,
    calls_in,
    open_duckdb,
    parquet_list,
    write_parquet,
)
from spell_billing.usage.frozen import USER_ITEMS_FILE, USER_USAGE_FILE, DayUsage, FrozenUsage, Sums, Totals
from spell_billing.usage.rated_items import write_rated_items
from spell_billing.usage.user_usage import keep_user_usage

_LARGEST_USERS = 10


@dataclass(frozen=True, slots=True)
class UserUsage:
    """One user's month: number of calls and exact cost in (possibly fractional) cents."""

    user_id: str
    calls: int
    cost_cents: Decimal


@dataclass(frozen=True, slots=True)
class UserTotals:
    """What aggregation found: users, their calls and cost in all, and the most expensive of them.

    `unused_cards` are the rate cards of the month, in words, that price nothing of it.
    """

    path: Path
    users: int
    totals: Totals
    largest: tuple[UserUsage, ...]
    unused_cards: tuple[str, ...] = ()


def aggregate(frozen: FrozenUsage, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> UserTotals:
    """Write `user_usage.parquet` and its hash into the version: user_id, calls, cost_cents; by user_id.

    Where items or rate cards were frozen, `user_items.parquet` has the same of each user's items, and is
    there before it. What a card prices, costs that: the sums are what is charged.

    Verify the version first (`UsageStore.verify`): equal sums do not prove that no row changed users.

    Raises:
        UsageError: a sum exceeds 38 digits.
        IntegrityError: the users do not add up to the frozen rows.
    """
    with (
        tempfile.TemporaryDirectory(prefix=SPILL_PREFIX, dir=frozen.directory.parent) as workplace,
        _opened(frozen, memory_limit_bytes) as duck,
    ):
        unfinished, unfinished_items = Path(workplace) / USER_USAGE_FILE, Path(workplace) / USER_ITEMS_FILE
        rows, calls_sum = parquet_list(frozen.paths), calls_in(frozen)
        stored_cents: Decimal | None = None
        unused_cards: tuple[str, ...] = ()
        if frozen.manifest.rates is not None:
            stored_cents, unused_cards = write_rated_items(duck, frozen, unfinished_items)
        elif frozen.manifest.items_by is not None:
            sums = f"{calls_sum} AS calls, sum(cost_cents)::{_amount_type(frozen)} AS cost_cents FROM {rows}"
            query = f"SELECT user_id::VARCHAR AS user_id, item, {sums} GROUP BY user_id, item ORDER BY 1, 2"
            write_parquet(duck, query, unfinished_items)
        if unfinished_items.exists():
            rows, calls_sum = parquet_list([unfinished_items]), "sum(calls)::BIGINT"
        sums = f"{calls_sum} AS calls, sum(cost_cents)::{_amount_type(frozen)} AS cost_cents FROM {rows}"
        query = f"SELECT user_id::VARCHAR AS user_id, {sums} GROUP BY user_id ORDER BY 1"
        write_parquet(duck, query, unfinished)
        users = parquet_list([unfinished])
        (count, calls, cost), *_ = duck.execute(
            f"SELECT count(*), coalesce(sum(calls), 0), coalesce(sum(cost_cents), 0) FROM {users}"
        ).fetchall()
        top = duck.execute(
            f"SELECT user_id, calls, cost_cents FROM {users} "
            f"ORDER BY cost_cents DESC, user_id LIMIT {_LARGEST_USERS}"
        ).fetchall()
        totals = Totals(int(calls), exact(str(cost)))
        _require_equal(frozen, totals if stored_cents is None else replace(totals, cost_cents=stored_cents))
        if unfinished_items.exists():
            _keep(unfinished_items, frozen)
        path = _keep(unfinished, frozen)
    return UserTotals(
        path,
        count,
        totals,
        tuple(UserUsage(user, calls, exact(str(cost))) for user, calls, cost in top),
        unused_cards,
    )


def _keep(unfinished: Path, frozen: FrozenUsage) -> Path:
    path = keep_user_usage(unfinished, frozen.directory, unfinished.name)
    if frozen.keeper:
        frozen.keeper.keep_sums(frozen, path.name)
    return path


def _require_equal(frozen: FrozenUsage, totals: Totals) -> None:
    if totals != frozen.manifest.frozen:
        raise IntegrityError(
            f"{frozen.month}/{frozen.version}: the users add up to {totals.calls} calls of "
            f"{totals.cost_cents:f} cents, the frozen rows to {frozen.manifest.frozen.calls} calls of "
            f"{frozen.manifest.frozen.cost_cents:f} cents.",
            remedy="Verify the frozen files; restore them from a backup if they were altered.",
        )


def rows_of_user(frozen: FrozenUsage, user_id: str) -> list[DayUsage]:
    """Return a user's calls and exact cost per day (UTC), from the frozen rows; not of a summed month."""
    days = _of_user(
        frozen,
        user_id,
        f"{UTC_DAY} AS day, count(*), sum(cost_cents)::{_amount_type(frozen)}",
        "GROUP BY day ORDER BY day",
    )
    return [DayUsage(day, calls, exact(str(cost))) for day, calls, cost in days]


def sums_of_user(frozen: FrozenUsage, user_id: str) -> Sums:
    """Return what a summed month has of a user."""
    sums = (f"coalesce(sum({name}), 0)" for name in ("calls", "cost_cents", "fingerprint"))
    ((calls, cost, fingerprint),) = _of_user(
        frozen, user_id, "{}::BIGINT, {}::VARCHAR, {}::VARCHAR".format(*sums)
    )
    return Sums(Totals(calls, exact(cost)), exact(fingerprint))


def items_of_user(frozen: FrozenUsage, user_id: str) -> list[ItemUsage]:
    """Return a user's calls and exact stored cost by item from the frozen rows, the largest first."""
    if frozen.manifest.items_by is None:
        return []
    items = _of_user(
        frozen,
        user_id,
        f"item, {calls_in(frozen)}, sum(cost_cents)::{_amount_type(frozen)} AS cost_cents",
        "GROUP BY item ORDER BY cost_cents DESC, item",
    )
    return [ItemUsage(item, calls, exact(str(cost))) for item, calls, cost in items]


def _of_user(frozen: FrozenUsage, user_id: str, columns: str, rest: str = "") -> list[tuple[Any, ...]]:
    query = f"SELECT {columns} FROM {parquet_list(frozen.paths)} WHERE user_id::VARCHAR = $user_id {rest}"
    with _opened(frozen, MEMORY_LIMIT_BYTES) as duck:
        return duck.execute(query, {"user_id": user_id}).fetchall()


def _amount_type(frozen: FrozenUsage) -> str:
    """Return the SQL type of a sum of what the version's usage costs."""
    return f"DECIMAL(38, {frozen.manifest.charge_scale})"


@contextmanager
def _opened(frozen: FrozenUsage, memory_limit_bytes: int) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_duckdb(frozen.directory.parent, memory_limit_bytes=memory_limit_bytes) as duck:
        try:
            yield duck
        except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
            raise UsageError(
                f"{frozen.month}/{frozen.version}: a user's sum exceeds 38 digits.",
                remedy="Find and correct the absurd amounts in the usage table, and freeze the month again.",
            ) from error
        except duckdb.IOException as error:
            raise UsageError(
                f"{frozen.month}/{frozen.version} cannot be added up: {str(error).partition(chr(10))[0]}.",
                remedy=f"Make room in {frozen.directory.parent}, and see that it can be written to.",
            ) from error
