"""Rows of billed months that cannot be billed any more: they move no money, as far as anything tells.

Such a row counts as it was frozen. One that is recognized (its id is unique, its time and its user or cost
are as they were) is added to what its user has now. Of another one only the id is known, which may have been
given again or stand beside a good copy: it explains what its user lacks, and never charges anybody. Where
nothing tells whose a bad row was, losses are kept for later: of everybody, or of the users of whom late usage
was recorded, which rows it was being unknown.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from spell_billing.usage.duck import parquet_list
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.tables import BLANKS, NO_ID

BAD_NOW_SCHEMA = pa.schema(
    [("id", pa.string()), ("user_id", pa.string()), ("cost_cents", pa.string()), ("moment", pa.int64())]
)
"""A row that cannot be billed, as it stands: what it lacks is null or blank, `moment` is in microseconds."""
_ID = f"coalesce(nullif(id::VARCHAR, ''), '{NO_ID}')"


def count_bad_rows(
    duck: duckdb.DuckDBPyConnection,
    one: FrozenUsage,
    bad_now: pa.Table | None,
    recorded: Sequence[Path],
    *,
    counted: Callable[[str], str],
    keys: Collection[str],
    measures: Collection[str],
    has_unique_ids: bool,
    keeps_losses: bool,
) -> None:
    """Correct the table `changed`, which has what a month's users gained (or, below zero, lost).

    Args:
        duck: Where the table is.
        one: The month's version.
        bad_now: The month's rows that cannot be billed, in `BAD_NOW_SCHEMA`; a blank id is none.
        recorded: Files with late usage, perhaps some of this month.
        counted: Gives the SQL that counts the frozen rows of a condition, in the columns of `changed`.
        keys: The columns of `changed` that say whose and what, `user_id` among them.
        measures: Its other columns.
        has_unique_ids: Whether the database guarantees that no id stands twice, beside a good row.
        keeps_losses: Whether losses that bad rows may explain are left for later. Not where waiting bills are
            drafted again: these charge what the rows say now.
    """
    if bad_now is None or not len(bad_now):
        return
    losses = " OR ".join(f"{name} < 0" for name in measures)
    if one.manifest.is_summed:
        # Whose they were, and what they cost, went into the sums.
        if keeps_losses:
            duck.execute(f"DELETE FROM changed WHERE {losses}")
        return
    late = [f"FROM {parquet_list([path])} WHERE usage_month = '{one.month}'" for path in recorded]
    late_before = " UNION ".join(f"SELECT user_id {each}" for each in late or ["FROM changed WHERE false"])
    rows = parquet_list(one.paths)
    duck.register("bad_now", bad_now)
    for table, query in (
        ("bad", f"SELECT DISTINCT {_ID} AS id FROM bad_now"),
        ("late_before", late_before),
        (
            "were_good",
            (
                f"SELECT {_ID} AS id, user_id::VARCHAR AS user_id, cost_cents, "
                f"epoch_us(created_at) AS moment FROM {rows} WHERE {_ID} IN (FROM bad)"
            ),
        ),
        (
            "recognized",
            (
                "SELECT was.id FROM were_good AS was JOIN bad_now AS now ON now.id = was.id "
                f"AND now.moment = was.moment AND CASE WHEN coalesce(trim(now.user_id, '{BLANKS}'), '') = '' "
                "THEN TRY_CAST(now.cost_cents AS DECIMAL(38, 18)) = was.cost_cents "
                "ELSE now.user_id = was.user_id END "
                f"WHERE {has_unique_ids} AND was.user_id NOT IN (SELECT user_id FROM late_before)"
            ),
        ),
        ("surely", counted(f"WHERE {_ID} IN (FROM recognized)")),
        (
            "as_frozen",
            counted(f"WHERE {_ID} IN (FROM bad WHERE id <> '{NO_ID}' AND id NOT IN (FROM recognized))"),
        ),
    ):
        duck.execute(f"CREATE OR REPLACE TABLE {table} AS {query}")
    duck.unregister("bad_now")
    same = " AND ".join(f"changed.{name} = f.{name}" for name in keys)
    duck.execute(
        f"UPDATE changed SET {', '.join(f'{name} = changed.{name} + f.{name}' for name in measures)} "
        f"FROM surely AS f WHERE {same}"
    )
    if keeps_losses:
        missing = " OR ".join(
            f"{_explained(name)} <> coalesce(changed.{name}, 0) + f.{name}" for name in measures
        )
        of_anybody = _any(duck, f"FROM were_good WHERE id = '{NO_ID}'") or _any(
            duck,
            f"FROM as_frozen AS f LEFT JOIN changed ON {same} "
            f"WHERE f.user_id NOT IN (SELECT user_id FROM late_before) AND ({missing})",
        )
        of_late = _any(duck, "FROM bad WHERE id NOT IN (SELECT id FROM were_good)") or _any(
            duck, "FROM were_good WHERE user_id IN (SELECT user_id FROM late_before)"
        )
    duck.execute(
        f"UPDATE changed SET {', '.join(f'{name} = {_explained(name)}' for name in measures)} "
        f"FROM as_frozen AS f WHERE {same}"
    )
    if keeps_losses and (of_anybody or of_late):
        whose = "true" if of_anybody else "user_id IN (SELECT user_id FROM late_before)"
        duck.execute(f"DELETE FROM changed WHERE ({losses}) AND {whose}")


def _explained(name: str) -> str:
    """Return SQL for a difference without what bad rows explain of it, which never changes its sign."""
    difference = f"coalesce(changed.{name}, 0)"
    return (
        f"CASE WHEN f.{name} >= 0 THEN least({difference} + f.{name}, greatest({difference}, 0)) "
        f"ELSE greatest({difference} + f.{name}, least({difference}, 0)) END"
    )


def _any(duck: duckdb.DuckDBPyConnection, rows: str) -> bool:
    return duck.execute(f"SELECT 1 {rows} LIMIT 1").fetchone() is not None
