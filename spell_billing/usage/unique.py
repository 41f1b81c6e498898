"""The second proof of a freeze: no row stands twice. A view or a table without a unique key may bring it so.

Where the database itself guarantees that a column has no value twice, nothing is read. Elsewhere DuckDB adds
up the values of the month, out of core; and those of earlier months in which something changed since they
were billed, because a row that stands twice there would be charged as late usage.
"""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.usage.contract import SourceRules
from spell_billing.usage.duck import Stream, open_duckdb, own_errors, parquet_list
from spell_billing.usage.frozen import MAX_EXAMPLES, LateUsage
from spell_billing.usage.tables import NO_ID, USAGE_TABLE, Columns

_MEMORY_BYTES = 192 << 20
_OFTEN = {2: "twice"}


@dataclass(frozen=True)
class Uniqueness:
    """The columns to prove, those that the database does not guarantee, and how to read them.

    `values` opens a column of a month's billable rows, as text, named `value`.
    """

    directory: Path
    columns: tuple[str, ...]
    values: Callable[[str, Month], Stream]

    def require(self, month: Month, rows: Path) -> int:
        """Refuse a month where a value appears more than once.

        Returns:
            How many of its frozen rows have no id, so that nothing can tell whether they stand twice.

        Raises:
            UsageError: naming the values.
        """
        without_id = 0
        if not self.columns:
            return without_id
        with self._opened() as duck:
            for column in self.columns:
                if column == "id":
                    _require(duck, parquet_list([rows]), month, column, value="id")
                    without_id = _without_id(duck, rows)
                else:
                    self._require_streamed(duck, month, column)
        return without_id

    def require_changed(self, late: LateUsage | None) -> None:
        """Refuse changes of earlier months where a value appears more than once, which is not late usage.

        Raises:
            UsageError: naming the values.
        """
        if late is None or not self.columns:
            return
        with self._opened() as duck:
            for one in late.months:
                for column in self.columns:
                    self._require_streamed(duck, one.month, column)

    @contextmanager
    def _opened(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with open_duckdb(self.directory, memory_limit_bytes=_MEMORY_BYTES) as duck:
            duck.execute("SET preserve_insertion_order = false")
            yield duck

    def _require_streamed(self, duck: duckdb.DuckDBPyConnection, month: Month, column: str) -> None:
        with self.values(column, month) as reader, own_errors(reader) as streamed:
            duck.register("streamed", streamed)
            _require(duck, "streamed", month, column, value="value")
            duck.unregister("streamed")


def columns_to_prove(found: Columns, guaranteed: AbstractSet[str], rules: SourceRules) -> tuple[str, ...]:
    """Return the columns that the database does not itself guarantee; a unique one may have many nulls."""
    columns = [] if "id" in guaranteed and not found["id"].nullable else ["id"]
    if rules.dedupe_column is not None and rules.dedupe_column not in guaranteed:
        columns.append(rules.dedupe_column)
    return tuple(columns)


def _require(duck: duckdb.DuckDBPyConnection, rows: str, month: Month, column: str, *, value: str) -> None:
    repeated = duck.execute(
        f"SELECT {value}::VARCHAR AS value, count(*) AS times, count(*) OVER () AS total FROM {rows} "
        f"WHERE {value} IS NOT NULL AND {value}::VARCHAR NOT IN ('', '{NO_ID}') "
        f"GROUP BY {value} HAVING times > 1 ORDER BY {value} LIMIT {MAX_EXAMPLES}"
    ).fetchall()
    refuse_repeated(month, column, repeated)


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


def _without_id(duck: duckdb.DuckDBPyConnection, rows: Path) -> int:
    condition = f"id IS NULL OR id::VARCHAR = '{NO_ID}'"
    ((count,),) = duck.execute(f"SELECT count(*) FROM {parquet_list([rows])} WHERE {condition}").fetchall()
    return int(count)
