"""Late usage: what billed months have now beyond what was frozen, per user.

A per-user GROUP BY in the database costs as much as a fingerprint of the rows would (both read the month
once), and it names the users at once: so there is no cheaper proof before it. Watermarks on id or time
would miss rows, because both are given before commit.
"""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from spell_billing.core.erasure import PSEUDONYM_PATTERN
from spell_billing.core.errors import UsageError
from spell_billing.usage.amounts import exact
from spell_billing.usage.disk import finished_file
from spell_billing.usage.duck import calls_in, open_duckdb, parquet_list, registered, write_parquet
from spell_billing.usage.frozen import FrozenUsage, LateMonth, LateUsage, Totals
from spell_billing.usage.late_bad import count_bad_rows
from spell_billing.usage.late_rated import RatedMonth
from spell_billing.usage.rated_items import QUANTITY
from spell_billing.usage.unique import Uniqueness
from spell_billing.usage.usage_tables import UsageTables

LATE_USAGE_FILE = "late_usage.parquet"
"""As it is written. To be read under the name in the manifest: with a user erased, it has another."""


def checked(late_for: Sequence[FrozenUsage]) -> tuple[str, ...]:
    """Return the versions whose months were compared, and the supplements that counted as frozen."""
    return tuple(f"{one.month}/{each.version}" for one in late_for for each in (one, *one.supplements))


def compare_late_usage(
    late_for: Sequence[FrozenUsage],
    directory: Path,
    tables: UsageTables,
    unique: Uniqueness,
    *,
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
        tables: What the source has now.
        unique: The proof that no row stands twice: such a row is not late.
        recorded: The versions that may have recorded late usage; by default `late_for`.
        users: Compare these users alone.

    Returns:
        None when nothing differs.

    Raises:
        UsageError: an amount does not fit 38 digits, or a row stands twice.
    """
    if not late_for:
        return None
    recorders = [each for one in recorded or late_for for each in (one, *one.supplements)]
    scale = max(tables.scale, *(one.manifest.charge_scale for one in (*late_for, *recorders)))
    recorded_in = [each.path(each.manifest.late.file) for each in recorders if each.manifest.late is not None]
    has_unique_ids = "id" not in unique.columns
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
                    rated = RatedMonth(
                        duck, one, recorded_in, tables, scale=scale, some_users=users is not None
                    )
                    rated.compare(has_unique_ids=has_unique_ids)
                    continue
                with registered(duck, "source_now", tables.current(one.month)):
                    query = _difference_query(one, recorded_in, scale, some_users=users is not None)
                    duck.execute(query, {"month": str(one.month)} if recorded_in else None)
                count_bad_rows(
                    duck,
                    one,
                    tables.bad_now(one.month),
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
        late = _write(duck, late_for, directory)
    unique.require_changed(late)
    return late


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
    write_parquet(duck, "FROM late ORDER BY ALL", path)
    ((rows,),) = duck.execute("SELECT count(*) FROM late").fetchall()
    return LateUsage(finished_file(path, rows), tuple(months))
