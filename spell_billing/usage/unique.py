"""The second proof of a freeze: no row stands twice. A view or a table without a unique key may bring it so.

Where the database itself guarantees that a column has no value twice, nothing is read. Elsewhere DuckDB adds
up the values of the month, out of core; and those of earlier months in which something changed since they
were billed, because a row that stands twice there would be charged as late usage. A month is also compared
with the one before it, where what was tried again at midnight would be charged a second time.
"""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.usage.contract import SourceRules
from spell_billing.usage.duck import Stream, open_duckdb, parquet_list, registered
from spell_billing.usage.frozen import MAX_EXAMPLES, BilledBefore, FrozenUsage, LateUsage
from spell_billing.usage.tables import NO_ID, USAGE_TABLE, Columns

_MEMORY_BYTES = 192 << 20
_OFTEN = {2: "twice"}
_NEAR = timedelta(days=1)
"""How long before a row another one may be of the same call."""


@dataclass(frozen=True)
class Uniqueness:
    """The columns to prove, those that the database does not guarantee, and how the source is searched.

    `repeated` finds values of a column that stand more than once in a month: each, how often, how many there
    are in all. `in_both` finds those that stand in two months: each, and how many there are in all.
    """

    directory: Path
    columns: tuple[str, ...]
    repeated: Callable[[str, Month], Sequence[tuple[str, int, int]]]
    in_both: Callable[[str, Month, Month], Sequence[tuple[str, int]]]

    def require(self, month: Month, rows: Path) -> int:
        """Refuse a month where a value appears more than once.

        Returns:
            How many of its frozen rows have no id, so that nothing can tell whether they stand twice; of a
            summed month, which has no rows, none.

        Raises:
            UsageError: naming the values.
        """
        without_id = 0
        for column in self.columns:
            if column == "id" and rows.is_file():
                with _opened(self.directory) as duck:
                    refuse_repeated(month, column, _repeated(duck, parquet_list([rows]), "id"))
                    without_id = _without_id(duck, rows)
            else:
                refuse_repeated(month, column, self.repeated(column, month))
        return without_id

    def require_changed(self, late: LateUsage | None) -> None:
        """Refuse changes of earlier months where a value appears more than once, which is not late usage.

        Raises:
            UsageError: naming the values.
        """
        for one in late.months if late else ():
            for column in self.columns:
                refuse_repeated(one.month, column, self.repeated(column, one.month))

    def require_apart(
        self, month: Month, rows: Path, before: FrozenUsage | None, late: LateUsage | None
    ) -> BilledBefore:
        """Compare a month with the billed one before it: a writer may have tried again at midnight.

        Ids may be given anew each month: the same one, of the same user and cost and within a day, is a
        question. A value of another column is proof.

        Args:
            month: The month.
            rows: Its frozen rows; of a summed month there is no such file.
            before: The version of the month before; None where it was not billed.
            late: What was found late, in the directory of `rows`: who lost calls has one row, which moved.

        Raises:
            UsageError: naming the values that stand in both months.
        """
        found = BilledBefore()
        if before is None or not self.columns:
            return found
        for column in self.columns:
            if column != "id":
                refuse_in_both(month, column, self.in_both(column, before.month, month))
            elif rows.is_file() and not before.manifest.is_summed:
                with _opened(self.directory) as duck:
                    found = billed_before(duck, month, rows, before, late)
        return found


def repeated_values(directory: Path, values: Stream) -> list[tuple[str, int, int]]:
    """Find what stands more than once in a stream of `value`, as `Uniqueness.repeated` does; spill there."""
    with _opened(directory) as duck, registered(duck, "streamed", values):
        return _repeated(duck, "streamed", "value")


def values_in_both(directory: Path, before: Stream, after: Stream) -> list[tuple[str, int]]:
    """Find what stands in two streams of `value`, as `Uniqueness.in_both` does; spill into the directory."""
    with _opened(directory) as duck:
        for table, values in (("earlier", before), ("later", after)):
            with registered(duck, "streamed", values):
                duck.execute(
                    f"CREATE TABLE {table} AS SELECT DISTINCT value FROM streamed "
                    f"WHERE value NOT IN ('', '{NO_ID}')"
                )
        return duck.execute(
            "SELECT value, count(*) OVER () FROM later SEMI JOIN earlier USING (value) "
            f"ORDER BY value LIMIT {MAX_EXAMPLES}"
        ).fetchall()


@contextmanager
def _opened(directory: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_duckdb(directory, memory_limit_bytes=_MEMORY_BYTES) as duck:
        duck.execute("SET preserve_insertion_order = false")
        yield duck


def columns_to_prove(found: Columns, guaranteed: AbstractSet[str], rules: SourceRules) -> tuple[str, ...]:
    """Return the columns that the database does not itself guarantee; a unique one may have many nulls."""
    columns = [] if "id" in guaranteed and not found["id"].nullable else ["id"]
    if rules.dedupe_column is not None and rules.dedupe_column not in guaranteed:
        columns.append(rules.dedupe_column)
    return tuple(columns)


def _repeated(duck: duckdb.DuckDBPyConnection, rows: str, value: str) -> list[tuple[str, int, int]]:
    return duck.execute(
        f"SELECT {value}::VARCHAR AS value, count(*) AS times, count(*) OVER () AS total FROM {rows} "
        f"WHERE {value} IS NOT NULL AND {value}::VARCHAR NOT IN ('', '{NO_ID}') "
        f"GROUP BY {value} HAVING times > 1 ORDER BY {value} LIMIT {MAX_EXAMPLES}"
    ).fetchall()


def refuse_repeated(month: Month, column: str, found: Sequence[tuple[str, int, int]]) -> None:
    """Refuse values that appear more than once, given as (value, times, how many such values in all)."""
    if not found:
        return
    named = "; ".join(
        f"{column} {text} stands {_OFTEN.get(times, f'{times} times')}" for text, times, _ in found
    )
    more = found[0][2] - len(found)
    raise UsageError(
        f"In {USAGE_TABLE} of {month} {named}{f'; and {more:,} more' if more else ''}.",
        remedy="Each would be charged that often: delete the copies, or correct the view that repeats them, "
        "and bill the month again.",
    )


def refuse_in_both(month: Month, column: str, found: Sequence[tuple[str, int]]) -> None:
    """Refuse values that stand in a month and in the one before, given as (value, how many in all)."""
    if not found:
        return
    named = ", ".join(value for value, _ in found)
    more = found[0][1] - len(found)
    raise UsageError(
        f"In {USAGE_TABLE} {column} {named} stands in {month.plus(-1)} and in {month}"
        f"{f'; and {more:,} more' if more else ''}.",
        remedy=f"Each would be charged in both months: delete the copies in {month}, and bill it again.",
    )


def billed_before(
    duck: duckdb.DuckDBPyConnection, month: Month, rows: Path, before: FrozenUsage, late: LateUsage | None
) -> BilledBefore:
    """Find rows of a month's first day that are, but for the time, as one a day before that was billed."""
    duck.execute("CREATE TABLE lost (usage_month VARCHAR, user_id VARCHAR)")
    if late is not None:
        file = parquet_list([rows.with_name(late.file.name)])
        duck.execute(f"INSERT INTO lost SELECT usage_month, user_id FROM {file} WHERE calls < 0")
    columns = "id::VARCHAR AS id, user_id::VARCHAR AS user_id, cost_cents, epoch_us(created_at) AS moment"
    first_day = f"created_at < TIMESTAMPTZ '{month.start + _NEAR}'"
    last_day = f"created_at >= TIMESTAMPTZ '{month.start - _NEAR}'"
    found = duck.execute(
        "SELECT later.id, count(*) OVER () "
        f"FROM (SELECT {columns} FROM {parquet_list([rows])} WHERE {first_day}) AS later "
        f"SEMI JOIN (SELECT {columns} FROM {parquet_list(before.paths)} WHERE {last_day}) AS earlier "
        "ON later.id = earlier.id AND later.user_id = earlier.user_id "
        "AND later.cost_cents = earlier.cost_cents "
        f"AND later.moment - earlier.moment <= {_NEAR // timedelta(microseconds=1)} "
        f"WHERE later.id NOT IN ('', '{NO_ID}') "
        f"AND later.user_id NOT IN (SELECT user_id FROM lost WHERE usage_month = '{before.month}') "
        f"ORDER BY later.id LIMIT {MAX_EXAMPLES}"
    ).fetchall()
    return BilledBefore(found[0][1], tuple(each for each, _ in found)) if found else BilledBefore()


def _without_id(duck: duckdb.DuckDBPyConnection, rows: Path) -> int:
    condition = f"id IS NULL OR id::VARCHAR = '{NO_ID}'"
    ((count,),) = duck.execute(f"SELECT count(*) FROM {parquet_list([rows])} WHERE {condition}").fetchall()
    return int(count)
