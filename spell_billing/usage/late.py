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
from spell_billing.usage.late_rated import PlansNow, recorded_as_late, write_rated_differences
from spell_billing.usage.rate_cards import frozen_cards
from spell_billing.usage.rated_items import QUANTITY, counted
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
    plans_now: PlansNow,
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
        plans_now: Read where rate cards of a plan may price users who had no usage on time.
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
    with open_duckdb(directory) as duck:
        money = f"DECIMAL(38, {scale})"
        duck.execute(
            f"CREATE TABLE late (usage_month VARCHAR, user_id VARCHAR, calls BIGINT, cost_cents {money}, "
            f"item VARCHAR, measured BIGINT, quantity {QUANTITY}, stored_cents {money}, plan_id VARCHAR)"
        )
        if users is not None:
            duck.register("those", pa.table({"user_id": pa.array(sorted(users), pa.string())}))
        try:
            for one in late_for:
                _compare(
                    duck,
                    one,
                    recorded_in,
                    tables,
                    scale=scale,
                    has_unique_ids="id" not in unique.columns,
                    some_users=users is not None,
                )
                if (cards := frozen_cards(one)) is not None:
                    write_rated_differences(duck, one, cards, recorded_in, plans_now)
                else:
                    duck.execute(
                        "INSERT INTO late (usage_month, user_id, calls, cost_cents) "
                        f"SELECT '{one.month}', * FROM changed WHERE calls <> 0 OR stored_cents <> 0"
                    )
            _add_up(duck, scale)
        except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
            raise UsageError(
                "A user's usage in an earlier month exceeds 38 digits.",
                remedy="Find and correct the absurd amounts in the usage table.",
            ) from error
        late = _write(duck, late_for, directory)
    unique.require_changed(late)
    return late


def _compare(
    duck: duckdb.DuckDBPyConnection,
    one: FrozenUsage,
    recorded: Sequence[Path],
    tables: UsageTables,
    *,
    scale: int,
    has_unique_ids: bool,
    some_users: bool,
) -> None:
    """Make the table `changed`: what a month's users have now beyond what was frozen, or recorded since.

    By user. Where the month has rate cards also by item, with the tables `on_time`, of what was frozen, and
    `known`, of that and what was recorded.
    """
    is_rated = one.manifest.rates is not None
    keys = ["user_id", "item"] if is_rated else ["user_id"]
    types = {"calls": "BIGINT"}
    if is_rated:
        types |= {"measured": "BIGINT", "quantity": QUANTITY}
    types["stored_cents"] = f"DECIMAL(38, {scale})"
    count = partial(counted if is_rated else _counted, one, scale)
    sums = ", ".join([*keys, *(f"sum({name})::{kind} AS {name}" for name, kind in types.items())])
    since = "".join(f" UNION ALL BY NAME {recorded_as_late(one, path, scale)}" for path in recorded)
    known = f"{count()}{since}"
    if is_rated:
        duck.execute(f"CREATE OR REPLACE TABLE on_time AS {count()}")
        duck.execute(
            f"CREATE OR REPLACE TABLE known AS SELECT {sums} FROM (FROM on_time{since}) GROUP BY ALL"
        )
        known = "FROM known"
    now = ", ".join([*keys, *(f"{name}::{kind} AS {name}" for name, kind in types.items())])
    before = ", ".join([*keys, *(f"-{name}" for name in types)])
    which = " WHERE user_id IN (SELECT user_id FROM those)" if some_users else ""
    with registered(duck, "source_now", tables.items(one) if is_rated else tables.current(one.month)):
        duck.execute(
            f"CREATE OR REPLACE TABLE changed AS SELECT {sums} FROM (SELECT {now} "
            "FROM (SELECT * RENAME (cost_cents AS stored_cents) FROM source_now) "
            f"UNION ALL SELECT {before} FROM ({known})){which} GROUP BY ALL"
        )
    count_bad_rows(
        duck,
        one,
        tables.bad_now(one.month),
        recorded,
        counted=count,
        keys=keys,
        measures=types,
        has_unique_ids=has_unique_ids,
        keeps_losses=not some_users,
    )


def _counted(one: FrozenUsage, scale: int, where: str = "") -> str:
    return (
        f"SELECT user_id::VARCHAR AS user_id, {calls_in(one)} AS calls, "
        f"sum(cost_cents)::DECIMAL(38, {scale}) AS stored_cents FROM {parquet_list(one.paths)} {where} "
        "GROUP BY ALL"
    )


def _add_up(duck: duckdb.DuckDBPyConnection, scale: int) -> None:
    # Of a user who was erased, rows that are gone are no loss, and rows without a user no late usage.
    duck.execute(
        "CREATE OR REPLACE TABLE late AS SELECT usage_month, user_id, sum(calls)::BIGINT AS calls, "
        f"sum(cost_cents)::DECIMAL(38, {scale}) AS cost_cents, item, sum(measured)::BIGINT AS measured, "
        f"sum(quantity)::{QUANTITY} AS quantity, sum(stored_cents)::DECIMAL(38, {scale}) AS stored_cents, "
        f"plan_id FROM late WHERE NOT regexp_full_match(user_id, '{PSEUDONYM_PATTERN}') GROUP BY ALL "
        # What changes no price may change the next one.
        "HAVING sum(calls) <> 0 OR sum(cost_cents) <> 0 "
        "OR sum(measured) <> 0 OR sum(quantity) <> 0 OR sum(stored_cents) <> 0"
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
    is_rated = any(one.manifest.rates is not None for one in late_for)
    columns = "*" if is_rated else "usage_month, user_id, calls, cost_cents"
    write_parquet(duck, f"SELECT {columns} FROM late ORDER BY ALL", path)
    ((rows,),) = duck.execute("SELECT count(*) FROM late").fetchall()
    return LateUsage(finished_file(path, rows), tuple(months))
