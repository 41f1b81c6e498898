"""What each user has used in a month so far, from the platform's tables: nothing is frozen or kept."""

import tempfile
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import pyarrow as pa

from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl
from spell_billing.usage.amounts import exact
from spell_billing.usage.contract import Totals
from spell_billing.usage.duck import open_duckdb
from spell_billing.usage.postgres_catalog import COLUMNS_QUERY
from spell_billing.usage.postgres_errors import reading
from spell_billing.usage.postgres_snapshot import Snapshot, in_snapshots
from spell_billing.usage.postgres_sql import UsageSql
from spell_billing.usage.sqlite_snapshot import open_sqlite_snapshot
from spell_billing.usage.sqlite_sql import SqliteUsageSql
from spell_billing.usage.sqlite_times import MonthFilter
from spell_billing.usage.tables import USAGE_COLUMNS, USAGE_TABLE, Column, require_columns

_WRITTEN = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("cost_cents", pa.int64()),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
    ]
)


def usage_so_far(url: DatabaseUrl, month: Month) -> dict[str, Totals]:
    """Count and add up the month's calls by user: of the rows that a freeze would take now.

    PostgreSQL does so itself, in one grouped query.

    Raises:
        UsageError: the tables are not what billing needs, or cannot be read.
        DatabaseUnreachableError: the database does not answer.
    """
    return _in_postgres(url, month) if url.backend == "postgresql" else _in_sqlite(url, month)


def _in_postgres(url: DatabaseUrl, month: Month) -> dict[str, Totals]:
    def read(snapshots: list[Snapshot]) -> pa.Table:
        (snapshot,) = snapshots
        rows = snapshot.table(COLUMNS_QUERY.format(table=USAGE_TABLE)).to_pylist()
        columns = {row["name"]: Column(row["type"], row["nullable"]) for row in rows}
        require_columns(url, USAGE_TABLE, columns, USAGE_COLUMNS)
        return snapshot.table(UsageSql(columns).users(month))

    with reading(url):
        found = in_snapshots(url, 1, read)
    names = ("user_id", "calls", "cost_cents")
    rows = zip(*(found[name].to_pylist() for name in names), strict=True)
    return {user_id: Totals(calls, exact(cost_cents)) for user_id, calls, cost_cents in rows}


def _in_sqlite(url: DatabaseUrl, month: Month) -> dict[str, Totals]:
    calls: defaultdict[str, int] = defaultdict(int)
    cents: defaultdict[str, int] = defaultdict(int)
    with open_sqlite_snapshot(url) as snapshot, open_duckdb(Path(tempfile.gettempdir())) as duck:
        described = snapshot.rows(f"SELECT name, type FROM pragma_table_info('{USAGE_TABLE}')")
        # Ids are read as text here, so none needs to be told from the others.
        columns = {row["name"].lower(): Column(row["type"].lower(), nullable=True) for row in described}
        require_columns(url, USAGE_TABLE, columns, USAGE_COLUMNS)
        of_month = MonthFilter(duck, _WRITTEN)
        with snapshot.stream(SqliteUsageSql(columns).rows(month)) as batches:
            for batch in batches:
                duck.register("kept", of_month.keep(batch, month))
                summed = duck.execute(
                    "SELECT user_id, count(*), sum(cost_cents) FROM kept GROUP BY user_id"
                ).fetchall()
                duck.unregister("kept")
                for user_id, number, sum_cents in summed:
                    calls[user_id] += number
                    cents[user_id] += int(sum_cents)
    return {user_id: Totals(number, Decimal(cents[user_id])) for user_id, number in calls.items()}
