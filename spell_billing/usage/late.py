"""Late usage: what billed months have now beyond what was frozen, per user.

A per-user GROUP BY in the database costs as much as a fingerprint of the rows would (both read the month
once), and it names the users at once: so there is no cheaper proof before it. Watermarks on id or time
would miss rows, because both are given before commit.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from spell_billing.core.erasure import PSEUDONYM_PATTERN
from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.usage.amounts import exact
from spell_billing.usage.disk import finished_file
from spell_billing.usage.duck import Stream, calls_in, open_duckdb, own_errors, parquet_list, quoted
from spell_billing.usage.frozen import FrozenUsage, LateMonth, LateUsage, Totals
from spell_billing.usage.late_bad import count_bad_rows
from spell_billing.usage.late_rated import RatedMonth
from spell_billing.usage.rated_items import QUANTITY

LATE_USAGE_FILE = "late_usage.parquet"
"""As it is written. To be read under the name in the manifest: with a user erased, it has another."""


def checked(late_for: Sequence[FrozenUsage]) -> tuple[str, ...]:
    """Return the versions whose months were compared, and the supplements that counted as frozen."""
    return tuple(f"{one.month}/{each.version}" for one in late_for for each in (one, *one.supplements))


def compare_late_usage(
    late_for: Sequence[FrozenUsage],
    directory: Path,
    current: Callable[[Month], Stream],
    items: Callable[[FrozenUsage], Stream],
    *,
    scale: int,
    plans_now: Callable[[], pa.Table],
    bad_now: Callable[[Month], pa.Table | None] = lambda _: None,
    has_unique_ids: bool = False,
    recorded: Sequence[FrozenUsage] | None = None,
    users: Collection[str] | None = None,
) -> LateUsage | None:
    """Compare what the source has now with what the versions froze, and write the differences.

    What was recorded as late for a month counts as frozen for that month: a difference is reported once. Of
    rows that cannot be billed any more (their user was erased, say) see `late_bad`.

    Args:
        late_for: The pinned versions of earlier months.
        directory: Where `late_usage.parquet` goes: usage_month, user_id, calls, cost_cents; where a month
            has rate cards, also item, measured, quantity, stored_cents, plan_id, and a row for each item.
        current: Streams a month's usage: user_id, calls, cost_cents, any number of rows for a user.
        scale: Decimal places of a cent that the source may have.
        plans_now: Reads user_id and plan_id of the accounts, for users who had no usage on time.
        items: Streams the usage of a month with rate cards: `late_rated.ITEM_COLUMNS`.
        bad_now: Gives a month's rows that cannot be billed, in `BAD_NOW_SCHEMA`; called after `current`.
        has_unique_ids: Whether the database guarantees that no id stands twice.
        recorded: The versions that may have recorded late usage; by default `late_for`.
        users: Compare these users alone.

    Returns:
        None when nothing differs.

    Raises:
        UsageError: an amount does not fit 38 digits.
    """
    if not late_for:
        return None
    recorders = [each for one in recorded or late_for for each in (one, *one.supplements)]
    scale = max(scale, *(one.manifest.charge_scale for one in (*late_for, *recorders)))
    by_item = any(one.manifest.rates is not None for one in late_for)
    with open_duckdb(directory) as duck:
        money = f"DECIMAL(38, {scale})"
        of_items = (
            f", item VARCHAR, measured BIGINT, quantity {QUANTITY}, stored_cents {money}, plan_id VARCHAR"
        )
        duck.execute(
            "CREATE TABLE late (usage_month VARCHAR, user_id VARCHAR, calls BIGINT, "
            f"cost_cents {money}{of_items if by_item else ''})"
        )
        if users is not None:
            duck.register("those", pa.table({"user_id": pa.array(sorted(users), pa.string())}))
        try:
            for one in late_for:
                if one.manifest.rates is not None:
                    _compare_items(
                        duck,
                        one,
                        recorders,
                        items,
                        plans_now=plans_now,
                        scale=scale,
                        bad_now=bad_now,
                        has_unique_ids=has_unique_ids,
                        some_users=users is not None,
                    )
                    continue
                recorded_in = _late_files(recorders)
                with current(one.month) as reader, own_errors(reader) as source:
                    duck.register("source_now", source)
                    query = _difference_query(one, recorded_in, scale, some_users=users is not None)
                    duck.execute(query, {"month": str(one.month)} if recorded_in else None)
                    duck.unregister("source_now")
                count_bad_rows(
                    duck,
                    one,
                    bad_now(one.month),
                    recorded_in,
                    counted=partial(_counted, one, scale),
                    keys=("user_id",),
                    measures=("calls", "cost_cents"),
                    has_unique_ids=has_unique_ids,
                    keeps_losses=users is None,
                )
                duck.execute(
                    "INSERT INTO late (usage_month, user_id, calls, cost_cents) "
                    f"SELECT '{one.month}', * FROM changed WHERE calls <> 0 OR cost_cents <> 0"
                )
            _add_up(duck, scale, by_item=by_item)
        except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
            raise UsageError(
                f"A user's usage in an earlier month exceeds 38 digits: {error}.",
                remedy="Find and correct the absurd amounts in the usage table.",
            ) from error
        return _write(duck, late_for, directory)


def _compare_items(
    duck: duckdb.DuckDBPyConnection,
    one: FrozenUsage,
    recorders: Sequence[FrozenUsage],
    items: Callable[[FrozenUsage], Stream],
    *,
    plans_now: Callable[[], pa.Table],
    scale: int,
    bad_now: Callable[[Month], pa.Table | None],
    has_unique_ids: bool,
    some_users: bool,
) -> None:
    month = RatedMonth(
        duck, one, _late_files(recorders), plans_now=plans_now, scale=scale, some_users=some_users
    )
    with items(one) as reader, own_errors(reader) as source:
        duck.register("source_now", source)
        month.take_current()
        duck.unregister("source_now")
    month.count_bad_rows(bad_now(one.month), has_unique_ids=has_unique_ids)
    month.write_differences()


def _late_files(recorders: Sequence[FrozenUsage]) -> list[Path]:
    return [each.path(each.manifest.late.file) for each in recorders if each.manifest.late is not None]


def _difference_query(one: FrozenUsage, recorded: Sequence[Path], scale: int, *, some_users: bool) -> str:
    money = f"DECIMAL(38, {scale})"
    known = [_counted(one, scale)]
    known.extend(
        f"SELECT user_id, calls, cost_cents::{money} FROM {parquet_list([path])} WHERE usage_month = $month"
        for path in recorded
    )
    which = " WHERE user_id IN (SELECT user_id FROM those)" if some_users else ""
    return (
        "CREATE OR REPLACE TABLE changed AS "
        "SELECT user_id, sum(calls)::BIGINT AS calls, "
        f"sum(cost_cents)::{money} AS cost_cents FROM ("
        f"SELECT user_id, calls, cost_cents::{money} AS cost_cents FROM source_now UNION ALL "
        f"SELECT user_id, -calls, -cost_cents FROM ({' UNION ALL '.join(known)})"
        f"){which} GROUP BY user_id"
    )


def _counted(one: FrozenUsage, scale: int, where: str = "") -> str:
    return (
        f"SELECT user_id::VARCHAR AS user_id, {calls_in(one)} AS calls, "
        f"sum(cost_cents)::DECIMAL(38, {scale}) AS cost_cents FROM {parquet_list(one.paths)} {where} "
        "GROUP BY ALL"
    )


def _add_up(duck: duckdb.DuckDBPyConnection, scale: int, *, by_item: bool) -> None:
    of_items, differs = "", "sum(calls) <> 0 OR sum(cost_cents) <> 0"
    if by_item:
        of_items = (
            f", item, sum(measured)::BIGINT AS measured, sum(quantity)::{QUANTITY} AS quantity, "
            f"sum(stored_cents)::DECIMAL(38, {scale}) AS stored_cents, plan_id"
        )
        # What changes no price may change the next one.
        differs += " OR sum(measured) <> 0 OR sum(quantity) <> 0 OR sum(stored_cents) <> 0"
    # Of a user who was erased, rows that are gone are no loss, and rows without a user no late usage.
    duck.execute(
        "CREATE OR REPLACE TABLE late AS SELECT usage_month, user_id, sum(calls)::BIGINT AS calls, "
        f"sum(cost_cents)::DECIMAL(38, {scale}) AS cost_cents{of_items} FROM late "
        f"WHERE NOT regexp_full_match(user_id, '{PSEUDONYM_PATTERN}') GROUP BY ALL HAVING {differs}"
    )


def _write(
    duck: duckdb.DuckDBPyConnection, late_for: Sequence[FrozenUsage], directory: Path
) -> LateUsage | None:
    versions = {str(one.month): one for one in late_for}
    months = [
        LateMonth(versions[month].month, versions[month].version, users, Totals(int(calls), exact(str(cost))))
        for month, users, calls, cost in duck.execute(
            "SELECT usage_month, count(DISTINCT user_id), sum(calls), sum(cost_cents) FROM late "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    ]
    if not months:
        return None
    path = directory / LATE_USAGE_FILE
    duck.execute(f"COPY (FROM late ORDER BY ALL) TO {quoted(path)} (FORMAT parquet, COMPRESSION zstd)")
    ((rows,),) = duck.execute("SELECT count(*) FROM late").fetchall()
    return LateUsage(finished_file(path, rows), tuple(months))
