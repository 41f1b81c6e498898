"""The usage source in PostgreSQL: streams a month over ADBC, from one snapshot, without a float."""

import time
import weakref
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import adbc_driver_manager
import pyarrow as pa

from spell_billing.core.errors import SourceBehindError, UsageError, UsageInterruptedError
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl
from spell_billing.usage.adapter import SqlUsage
from spell_billing.usage.amounts import MAX_SCALE, exact, fits_int64, is_billable
from spell_billing.usage.contract import ONE_USER_SECONDS, OnProgress, OnWait, Past, SourceRules, outside_of
from spell_billing.usage.duck import Stream
from spell_billing.usage.frozen import (
    NO_BAD_ROWS,
    PLAIN,
    BadRow,
    BadRows,
    DayUsage,
    Detail,
    Outside,
    Totals,
    together,
)
from spell_billing.usage.postgres_catalog import (
    COLUMNS_QUERY,
    FOREIGN_QUERY,
    HIDDEN_QUERY,
    REWRITTEN_QUERY,
    UNIQUE_QUERY,
)
from spell_billing.usage.postgres_errors import reading, sqlstate_of
from spell_billing.usage.postgres_parts import CostForm, is_one_of, is_user
from spell_billing.usage.postgres_rows import MonthRows
from spell_billing.usage.postgres_snapshot import Snapshot, describe_database, in_snapshots
from spell_billing.usage.postgres_sql import UsageSql
from spell_billing.usage.row_writer import FrozenRows, require_equal_totals
from spell_billing.usage.tables import USAGE_TABLE, Column, Columns, took_too_long
from spell_billing.usage.usage_tables import UsageTables

T = TypeVar("T")

_READERS = 2
"""Each reads its part of the month: one server process alone would be the bottleneck."""
_TOO_LONG = "57014"
_NO_SUCH_VALUE = "22"
"""The class of SQLSTATE for a text that cannot be of a column's type, as `abc` for a uuid."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0

# A commit of the next month that was replayed proves the month, because commits are replayed in order. On an
# idle primary there is none: then all that was received must be replayed, and the primary must have spoken
# after the month, and not of more than that. When it last did is told to roles with pg_read_all_stats alone.
_POSITION = """
SELECT pg_is_in_recovery() AS standby,
       CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() END AS replayed,
       (SELECT last_msg_send_time FROM pg_stat_wal_receiver
        WHERE status = 'streaming' AND latest_end_lsn <= pg_last_wal_replay_lsn()
            AND pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()) AS spoken
"""


class PostgresUsage(SqlUsage):
    """Reads usage and accounts from PostgreSQL 14 or later; implements `UsageSource`."""

    _url: DatabaseUrl

    def _read(self, act: Callable[[UsageTables], T]) -> T:
        with reading(self._url):
            return in_snapshots(self._url, 1, lambda readers: self._act(readers, act))

    def _read_of_user(self, user_id: str, act: Callable[[UsageTables], T]) -> T | None:
        def read_in_time(readers: list[Snapshot]) -> T | None:
            readers[0].execute(f"SET LOCAL statement_timeout = {int(ONE_USER_SECONDS * 1000)}")
            try:
                return act(_PostgresTables(readers, self._url, self._rules))
            except adbc_driver_manager.Error as error:
                if sqlstate_of(error) == _TOO_LONG:
                    raise took_too_long(self._url) from error
                if sqlstate_of(error).startswith(_NO_SUCH_VALUE):
                    return None
                raise

        with reading(self._url):
            if "\0" in user_id:
                return None
            return in_snapshots(self._url, 1, read_in_time, database=self._database)

    @cached_property
    def _database(self) -> adbc_driver_manager.AdbcDatabase:
        """What single users are read by: kept as long as this source, because learning it takes long."""
        database = describe_database(self._url)
        weakref.finalize(self, database.close)
        return database

    def _read_whole(self, month: Month, act: Callable[[UsageTables], T], on_wait: OnWait | None) -> T:
        def read() -> T:
            with reading(self._url):
                return in_snapshots(
                    self._url,
                    _READERS,
                    lambda readers: self._act(readers, act),
                    before=lambda first: _require_whole_month(first, month),
                )

        return _wait_for_whole_month(read, self._rules.wait, on_wait)

    def _act(self, readers: Sequence[Snapshot], act: Callable[[UsageTables], T]) -> T:
        """Do something, and refuse what came of it if a table was rewritten before it could be read."""
        done = act(_PostgresTables(readers, self._url, self._rules))
        rewritten = readers[0].table(REWRITTEN_QUERY)["name"].to_pylist()
        if rewritten:
            raise UsageInterruptedError(
                f"In {self._url.redacted} ({self._url.setting}) {', '.join(rewritten)} was rewritten (ALTER "
                "TABLE, TRUNCATE) while it was waited for, and seems empty to what began before.",
                remedy="Nothing was kept of this reading. Run it again.",
            )
        return done


class _PostgresTables(UsageTables):
    """Implements `UsageTables`; several readers of one snapshot share a month's rows."""

    def __init__(self, readers: Sequence[Snapshot], url: DatabaseUrl, rules: SourceRules) -> None:
        super().__init__(url, rules)
        self._readers = readers
        self._snapshot = readers[0]

    @cached_property
    def _sql(self) -> UsageSql:
        return UsageSql(self.usage_columns)

    @property
    def scale(self) -> int:  # type: ignore[override]
        return MAX_SCALE if self._sql.is_numeric else 0

    @cached_property
    def _hidden(self) -> dict[str, dict[str, str | None]]:
        return {row["name"]: row for row in self._snapshot.table(HIDDEN_QUERY).to_pylist()}

    def columns(self, table: str) -> Columns:
        rows = self._snapshot.table(COLUMNS_QUERY.format(table=table)).to_pylist()
        if table in self._hidden:
            schema, role, instead = (self._hidden[table][name] for name in ("schema", "role", "instead"))
            raise UsageError(
                f"{table} is in the schema {schema}, which the user {role} ({self.url.setting}) may not use"
                + (f"; {instead}.{table} would be read in its place." if instead else "."),
                remedy=f"As its owner: `GRANT USAGE ON SCHEMA {schema} TO {role}`.",
            )
        return {row["name"]: Column(row["type"], row["nullable"]) for row in rows}

    def foreign(self) -> tuple[str, ...]:
        found = self._snapshot.table(FOREIGN_QUERY).to_pylist()
        return tuple(row["name"] for row in found)

    def unique_columns(self) -> set[str]:
        rows = self._snapshot.table(UNIQUE_QUERY.format(table=USAGE_TABLE)).to_pylist()
        return {row["name"] for row in rows}

    def texts(
        self, table: str, found: Columns, names: tuple[str, ...], users: Collection[str] | str | None
    ) -> pa.Table:
        columns = ", ".join(f"{name if name in found else 'NULL'}::text AS {name}" for name in names)
        if not found:
            return self._snapshot.table(f"SELECT {columns} WHERE false")
        which = "true" if users is None else is_user(users) if isinstance(users, str) else is_one_of(users)
        return self._snapshot.table(f"SELECT {columns} FROM {table} WHERE {which}")

    def freeze(
        self, month: Month, path: Path, on_progress: OnProgress | None, detail: Detail = PLAIN
    ) -> FrozenRows:
        timeless = self.timeless()
        rows = MonthRows(self._readers, self._sql, month, detail)
        control, form = self.control(rows)
        written = rows.write(path, form, on_progress, expected=control.calls)
        require_equal_totals(month, frozen=written.totals, control=control)
        bad = NO_BAD_ROWS if form.all_clean else self._bad_rows(self._sql.bad_rows(month))
        self.bad_rows = together(timeless, bad)
        return FrozenRows(written.file, written.totals, control, form.scale)

    def timeless(self) -> BadRows:
        """Find rows of no month at all."""
        return self._bad_rows(self._sql.timeless)

    def control(self, rows: MonthRows) -> tuple[Totals, CostForm]:
        """Count and sum the billable rows in the database, and see how their amounts can travel."""
        found = rows.totals(every_row=True)
        all_clean = all(
            row["complete"] == row["calls"] and is_billable(row["scale"], Decimal(row["largest"]))
            for row in found
        )
        if not all_clean:
            found = rows.totals(every_row=False)
        scale = max(row["scale"] for row in found)
        largest = max(Decimal(row["largest"]) for row in found)
        cost_cents = exact_sum(*(Decimal(row["cost_cents"]) for row in found))
        as_text = self._sql.is_numeric and not fits_int64(scale, largest)
        totals = Totals(sum(row["calls"] for row in found), exact(str(cost_cents)))
        return totals, CostForm(scale, as_text=as_text, all_clean=all_clean)

    def current(self, month: Month, detail: Detail | None = None, user_id: str | None = None) -> Stream:
        sql = self._sql.users(month) if detail is None else self._sql.items(month, detail, user_id)
        return self._snapshot.stream(sql)

    def inexact_quantities(self, month: Month, user_id: str | None = None) -> list[tuple[str, str]]:
        if not self._sql.has_numeric_quantity:
            return []
        rows = self._snapshot.table(self._sql.inexact_quantities(month, user_id)).to_pylist()
        return [(row["id"], row["quantity"]) for row in rows]

    def bad_now(self, month: Month) -> pa.Table | None:
        if not self._sql.may_have_bad_rows:
            return None
        found = self._bad_rows(self._sql.bad_rows(month, name_month=True))
        self.earlier_bad_rows = together(self.earlier_bad_rows, found)
        return self._snapshot.table(self._sql.bad_now(month)) if found.count else None

    def values(self, column: str, month: Month) -> Stream:
        return self._snapshot.stream(self._sql.values(column, month))

    def outside(self, now: datetime, past: Past) -> Outside:
        (found,) = self._snapshot.table(self._sql.outside(now=now, first=past.first.start)).to_pylist()
        months = [month for month, _ in past.billed]
        rows = self._snapshot.table(self._sql.calls(months)).to_pylist() if months else []
        calls = {row["month"]: row["calls"] for row in rows}
        return outside_of(past, calls, future=found["future"], before_first=found["before_first"])

    def days(self, user_id: str, month: Month) -> list[DayUsage]:
        rows = self._snapshot.table(self._sql.user_days(user_id, month)).to_pylist()
        return [
            DayUsage(date.fromisoformat(row["day"]), row["calls"], exact(row["cost_cents"])) for row in rows
        ]

    def _bad_rows(self, query: str) -> BadRows:
        rows = self._snapshot.table(query).to_pylist()
        return BadRows(
            rows[0]["total"] if rows else 0, tuple(BadRow(row["id"], row["problem"]) for row in rows)
        )


def _require_whole_month(snapshot: Snapshot, month: Month) -> None:
    """Refuse a standby that does not have all of the month. Ask before the first query of the snapshot.

    Raises:
        SourceBehindError: naming up to when it has all rows.
    """
    (found,) = snapshot.table(_POSITION).to_pylist()
    if not found["standby"]:
        return
    moments = (found["replayed"], found["spoken"])
    complete = max((each.astimezone(UTC) for each in moments if each is not None), default=None)
    if complete is not None and complete >= month.end:
        return
    up_to = f"only up to {complete:%Y-%m-%d %H:%M:%S} UTC" if complete else "up to an unknown time"
    raise SourceBehindError(
        f"The standby that is read has the rows of {month} {up_to}; the month ends on {month.last_day} at "
        "24:00 UTC.",
        remedy="It is retried automatically; if it persists, check that the standby follows its primary, and "
        "grant pg_read_all_stats where the primary is idle, or set USAGE_DATABASE_URL to the primary.",
    )


def _wait_for_whole_month(freeze: Callable[[], T], wait: timedelta, on_wait: OnWait | None) -> T:
    """Freeze a month, again and again while the standby does not have all of it.

    Raises:
        SourceBehindError: it still does not have it after the wait.
    """
    end = time.monotonic() + wait.total_seconds()
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return freeze()
        except SourceBehindError as behind:
            left = end - time.monotonic()
            if left <= 0:
                raise
            if on_wait is not None:
                on_wait(
                    f"{behind.message} Waiting up to {left / 60:.0f} minutes for it (SOURCE_WAIT_MINUTES)."
                )
                on_wait = None
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
