"""The usage source in PostgreSQL: streams a month over ADBC, from one snapshot, without a float."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import adbc_driver_manager
import pyarrow as pa

from spell_billing.core.drafting import Account
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl
from spell_billing.usage.accounts import account_of, build_accounts
from spell_billing.usage.amounts import MAX_SCALE, exact, fits_int64, is_billable
from spell_billing.usage.contract import (
    NO_BAD_ROWS,
    ONE_USER_SECONDS,
    BadRow,
    BadRows,
    DayUsage,
    FrozenUsage,
    LateUsage,
    Manifest,
    OnProgress,
    OnWait,
    Outside,
    Past,
    SourceRules,
    Totals,
    UserMonth,
    outside_of,
    together,
)
from spell_billing.usage.late import checked, compare_late_usage
from spell_billing.usage.manifest import FORMAT_VERSION
from spell_billing.usage.postgres_catalog import COLUMNS_QUERY, UNIQUE_QUERY
from spell_billing.usage.postgres_errors import reading, sqlstate_of
from spell_billing.usage.postgres_rows import MonthRows
from spell_billing.usage.postgres_snapshot import Snapshot, in_snapshots
from spell_billing.usage.postgres_sql import CostForm, UsageSql, is_one_of, is_user
from spell_billing.usage.row_writer import ROWS_FILE, require_equal_totals
from spell_billing.usage.standby import require_whole_month, wait_for_whole_month
from spell_billing.usage.tables import (
    ACCOUNT_COLUMNS,
    ACCOUNT_OPTIONAL_COLUMNS,
    ACCOUNTS_TABLE,
    PLAN_COLUMNS,
    PLAN_OPTIONAL_COLUMNS,
    PLANS_TABLE,
    USAGE_COLUMNS,
    USAGE_TABLE,
    Column,
    Columns,
    require_columns,
    took_too_long,
)
from spell_billing.usage.unique import Uniqueness, columns_to_prove

T = TypeVar("T")
_READERS = 2
"""Each reads its part of the month: one server process alone would be the bottleneck."""
_TOO_LONG = "57014"
_NO_SUCH_VALUE = "22"
"""The class of SQLSTATE for a text that cannot be of a column's type, as `abc` for a uuid."""


class PostgresUsage:
    """Reads usage and accounts from PostgreSQL 14 or later; implements `UsageSource`."""

    def __init__(self, url: DatabaseUrl, rules: SourceRules) -> None:
        self._url = url
        self._rules = rules

    def freeze(
        self,
        month: Month,
        directory: Path,
        *,
        late_for: Sequence[FrozenUsage],
        past: Past | None = None,
        on_progress: OnProgress | None = None,
        on_wait: OnWait | None = None,
    ) -> Manifest:
        """Write the month's rows as Parquet; see `UsageSource.freeze`."""

        def freeze(readers: list[Snapshot]) -> Manifest:
            snapshot, *_ = readers
            frozen_at = datetime.now(UTC)
            sql, unique = self._queries(snapshot, directory)
            timeless = _timeless(snapshot, sql)
            rows = MonthRows(readers, sql, month)
            control, form = _control(rows)
            writer = rows.write(directory / ROWS_FILE, form, on_progress, expected=control.calls)
            require_equal_totals(month, frozen=writer.totals, control=control)
            bad = NO_BAD_ROWS if form.all_clean else _bad_rows(snapshot, sql.bad_rows([month]))
            earlier = [one.month for one in late_for] if sql.may_have_bad_rows else []
            earlier_bad = (
                _bad_rows(snapshot, sql.bad_rows(earlier, name_months=True)) if earlier else NO_BAD_ROWS
            )
            late = compare_late_usage(
                late_for,
                directory,
                lambda earlier: snapshot.stream(sql.users(earlier)),
                scale=MAX_SCALE if sql.is_numeric else 0,
                bad_now=lambda of: snapshot.table(sql.bad_ids(of))["id"] if earlier_bad.count else None,
            )
            unique.require_changed(late)
            return Manifest(
                format_version=FORMAT_VERSION,
                month=month,
                frozen_at=frozen_at,
                backend=self._url.backend,
                cost_scale=form.scale,
                frozen=writer.totals,
                control=control,
                files=(writer.file,),
                late=late,
                late_checked=checked(late_for),
                bad_rows=together(timeless, bad),
                earlier_bad_rows=earlier_bad,
                without_id=unique.require(month, directory / ROWS_FILE),
                outside=_outside(snapshot, sql, frozen_at, past),
            )

        def when_whole() -> Manifest:
            with reading(self._url):
                return in_snapshots(
                    self._url, _READERS, freeze, before=lambda first: require_whole_month(first, month)
                )

        return wait_for_whole_month(when_whole, self._rules.wait, on_wait)

    def supplement(
        self,
        frozen: FrozenUsage,
        directory: Path,
        *,
        recorded: Sequence[FrozenUsage],
        users: Collection[str],
    ) -> LateUsage | None:
        """Write what users have now beyond what was frozen; see `UsageSource.supplement`."""

        def compare(snapshot: Snapshot) -> LateUsage | None:
            sql, unique = self._queries(snapshot, directory)
            late = compare_late_usage(
                [frozen],
                directory,
                lambda month: snapshot.stream(sql.users(month)),
                scale=MAX_SCALE if sql.is_numeric else 0,
                recorded=recorded,
                users=users,
            )
            unique.require_changed(late)
            return late

        return self._read(compare)

    def accounts(self, users: Collection[str] | None = None) -> pa.Table:
        """Read billing accounts with their plans; see `UsageSource.accounts`."""
        which = "true" if users is None else is_one_of(users)
        return self._read(lambda snapshot: self._accounts(snapshot, which))

    def so_far(self, month: Month) -> dict[str, Totals]:
        """Count and add up a month's calls by user; see `UsageSource.so_far`."""

        def read(snapshot: Snapshot) -> pa.Table:
            return snapshot.table(UsageSql(self._columns(snapshot, USAGE_TABLE, USAGE_COLUMNS)).users(month))

        rows = self._read(read).to_pylist()
        return {row["user_id"]: Totals(row["calls"], exact(row["cost_cents"])) for row in rows}

    def user_month(self, user_id: str, month: Month) -> UserMonth:
        """Count and add up one user's calls of a month; see `UsageSource.user_month`."""

        def read(snapshot: Snapshot) -> pa.Table:
            sql = UsageSql(self._columns(snapshot, USAGE_TABLE, USAGE_COLUMNS))
            return snapshot.table(sql.user_days(user_id, month))

        found = self._read_of_user(user_id, read)
        return UserMonth(
            tuple(
                DayUsage(date.fromisoformat(row["day"]), row["calls"], exact(row["cost_cents"]))
                for row in (found.to_pylist() if found else [])
            )
        )

    def account(self, user_id: str) -> Account | None:
        """Read one user's billing account; see `UsageSource.account`."""
        which = is_user(user_id)
        found = self._read_of_user(user_id, lambda snapshot: self._accounts(snapshot, which))
        return account_of(found) if found else None

    def _read(self, read: Callable[[Snapshot], T]) -> T:
        with reading(self._url):
            return in_snapshots(self._url, 1, lambda snapshots: read(snapshots[0]))

    def _read_of_user(self, user_id: str, read: Callable[[Snapshot], pa.Table]) -> pa.Table | None:
        """Read in the time for one user; None where no row can have the id."""

        def read_in_time(snapshot: Snapshot) -> pa.Table | None:
            snapshot.execute(f"SET LOCAL statement_timeout = {int(ONE_USER_SECONDS * 1000)}")
            try:
                return read(snapshot)
            except adbc_driver_manager.Error as error:
                if sqlstate_of(error) == _TOO_LONG:
                    raise took_too_long(self._url) from error
                if sqlstate_of(error).startswith(_NO_SUCH_VALUE):
                    return None
                raise

        return None if "\0" in user_id else self._read(read_in_time)

    def _accounts(self, snapshot: Snapshot, which: str) -> pa.Table:
        found = self._columns(snapshot, ACCOUNTS_TABLE, ACCOUNT_COLUMNS)
        names = ACCOUNT_COLUMNS + ACCOUNT_OPTIONAL_COLUMNS
        accounts = snapshot.table(f"{_texts(ACCOUNTS_TABLE, found, names)} WHERE {which}")
        found = self._columns(snapshot, PLANS_TABLE, PLAN_COLUMNS, optional=True)
        plans = snapshot.table(_texts(PLANS_TABLE, found, PLAN_COLUMNS + PLAN_OPTIONAL_COLUMNS))
        return build_accounts(accounts, plans)

    def _queries(self, snapshot: Snapshot, directory: Path) -> tuple[UsageSql, Uniqueness]:
        """Return the queries that fit the table, and the proof that no row counts twice."""
        required = (*USAGE_COLUMNS, *filter(None, [self._rules.dedupe_column]))
        columns = self._columns(snapshot, USAGE_TABLE, required)
        sql = UsageSql(columns)
        rows = snapshot.table(UNIQUE_QUERY.format(table=USAGE_TABLE)).to_pylist()
        to_prove = columns_to_prove(columns, {row["name"] for row in rows}, self._rules)
        return sql, Uniqueness(
            directory, to_prove, lambda column, of: snapshot.stream(sql.values(column, of))
        )

    def _columns(
        self, snapshot: Snapshot, table: str, required: tuple[str, ...], *, optional: bool = False
    ) -> Columns:
        rows = snapshot.table(COLUMNS_QUERY.format(table=table)).to_pylist()
        found = {row["name"]: Column(row["type"], row["nullable"]) for row in rows}
        if found or not optional:
            require_columns(self._url, table, found, required)
        return found


def _control(rows: MonthRows) -> tuple[Totals, CostForm]:
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
    form = CostForm(
        scale, as_text=rows.sql.is_numeric and not fits_int64(scale, largest), all_clean=all_clean
    )
    return Totals(sum(row["calls"] for row in found), exact(str(cost_cents))), form


def _outside(snapshot: Snapshot, sql: UsageSql, now: datetime, past: Past | None) -> Outside:
    if past is None:
        return Outside()
    (found,) = snapshot.table(sql.outside(now=now, first=past.first.start)).to_pylist()
    months = [month for month, _ in past.billed]
    rows = snapshot.table(sql.calls(months)).to_pylist() if months else []
    calls = {row["month"]: row["calls"] for row in rows}
    return outside_of(past, calls, future=found["future"], before_first=found["before_first"])


def _timeless(snapshot: Snapshot, sql: UsageSql) -> BadRows:
    return _bad_rows(snapshot, sql.timeless)


def _bad_rows(snapshot: Snapshot, query: str) -> BadRows:
    rows = snapshot.table(query).to_pylist()
    examples = tuple(BadRow(row["id"], row["problem"]) for row in rows)
    return BadRows(rows[0]["total"] if rows else 0, examples)


def _texts(table: str, found: Columns, names: tuple[str, ...]) -> str:
    columns = ", ".join(f"{name if name in found else 'NULL'}::text AS {name}" for name in names)
    return f"SELECT {columns} FROM {table}" if found else f"SELECT {columns} WHERE false"
