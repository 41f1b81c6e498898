"""The usage source in PostgreSQL: streams a month over ADBC, from one snapshot, without a float."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from pathlib import Path

import adbc_driver_manager
import pyarrow as pa

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.databases import DatabaseUrl, database_errors, unreachable
from spell_billing.usage.accounts import build_accounts
from spell_billing.usage.amounts import MAX_SCALE, exact, exact_add, fits_int64, is_billable
from spell_billing.usage.contract import (
    BadRow,
    BadRows,
    FrozenUsage,
    LateUsage,
    Manifest,
    OnProgress,
    Totals,
    counted,
    together,
)
from spell_billing.usage.late import CurrentUsage, checked, compare_late_usage
from spell_billing.usage.manifest import FORMAT_VERSION
from spell_billing.usage.postgres_rows import MonthRows
from spell_billing.usage.postgres_snapshot import Snapshot, in_snapshots
from spell_billing.usage.postgres_sql import COLUMNS_QUERY, CostForm, UsageSql
from spell_billing.usage.proof import ROWS_FILE, require_equal_totals
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
)

_FORBIDDEN = "42501"
_LIBPQ = "[libpq]"
_SAID = re.compile(r"(?:ERROR|FATAL):\s+(?P<reason>.+)")
_READERS = 2
"""Each reads its part of the month: one server process alone would be the bottleneck."""


class PostgresUsage:
    """Reads usage and accounts from PostgreSQL 14 or later; implements `UsageSource`."""

    def __init__(self, url: DatabaseUrl) -> None:
        self._url = url

    def freeze(
        self,
        month: Month,
        directory: Path,
        *,
        late_for: Sequence[FrozenUsage],
        on_progress: OnProgress | None = None,
    ) -> Manifest:
        """Write the month's rows as Parquet; see `UsageSource.freeze`."""

        def freeze(readers: list[Snapshot]) -> Manifest:
            snapshot, *_ = readers
            frozen_at = datetime.now(UTC)
            sql = UsageSql(self._columns(snapshot, USAGE_TABLE, USAGE_COLUMNS))
            timeless = _timeless(snapshot, sql)
            rows = MonthRows(readers, sql, month)
            control, form = _control(rows)
            progress = counted(control.calls, on_progress)
            file, frozen = rows.write(directory / ROWS_FILE, form, progress)
            require_equal_totals(month, frozen=frozen, control=control)
            suspects = [one.month for one in late_for] + ([] if form.all_clean else [month])
            bad = together(timeless, _bad_rows(snapshot, sql, suspects))
            late = compare_late_usage(
                late_for,
                directory,
                lambda earlier: _current_users(snapshot, sql, earlier),
                scale=MAX_SCALE if sql.is_numeric else 0,
            )
            return Manifest(
                format_version=FORMAT_VERSION,
                month=month,
                frozen_at=frozen_at,
                backend=self._url.backend,
                cost_scale=form.scale,
                frozen=frozen,
                control=control,
                files=(file,),
                late=late,
                late_checked=checked(late_for),
                bad_rows=bad,
            )

        with self._errors():
            return in_snapshots(self._url, _READERS, freeze)

    def supplement(
        self,
        frozen: FrozenUsage,
        directory: Path,
        *,
        recorded: Sequence[FrozenUsage],
        users: Collection[str],
    ) -> LateUsage | None:
        """Write what users have now beyond what was frozen; see `UsageSource.supplement`."""

        def compare(snapshots: list[Snapshot]) -> LateUsage | None:
            (snapshot,) = snapshots
            sql = UsageSql(self._columns(snapshot, USAGE_TABLE, USAGE_COLUMNS))
            return compare_late_usage(
                [frozen],
                directory,
                lambda month: _current_users(snapshot, sql, month),
                scale=MAX_SCALE if sql.is_numeric else 0,
                recorded=recorded,
                users=users,
            )

        with self._errors():
            return in_snapshots(self._url, 1, compare)

    def accounts(self) -> pa.Table:
        """Read all billing accounts with their plans; see `UsageSource.accounts`."""

        def read(snapshots: list[Snapshot]) -> tuple[pa.Table, pa.Table]:
            (snapshot,) = snapshots
            found = self._columns(snapshot, ACCOUNTS_TABLE, ACCOUNT_COLUMNS)
            accounts = snapshot.table(
                _texts(ACCOUNTS_TABLE, found, ACCOUNT_COLUMNS + ACCOUNT_OPTIONAL_COLUMNS)
            )
            found = self._columns(snapshot, PLANS_TABLE, ())
            if found:
                require_columns(self._url, PLANS_TABLE, found, PLAN_COLUMNS)
            return accounts, snapshot.table(_texts(PLANS_TABLE, found, PLAN_COLUMNS + PLAN_OPTIONAL_COLUMNS))

        with self._errors():
            return build_accounts(*in_snapshots(self._url, 1, read))

    def _columns(self, snapshot: Snapshot, table: str, required: tuple[str, ...]) -> Columns:
        rows = snapshot.table(COLUMNS_QUERY.format(table=table)).to_pylist()
        found = {row["name"]: Column(row["type"], row["nullable"]) for row in rows}
        if required:
            require_columns(self._url, table, found, required)
        return found

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with database_errors(self._url):
                yield
        except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and _LIBPQ not in str(error):
                # Of the disk that is written to.
                raise
            said = _SAID.search(str(error))
            reason = said["reason"].rstrip(".") if said else str(error).partition("\n")[0]
            # What goes wrong in mid-stream comes by Arrow, without the state of the driver's errors.
            if not isinstance(error, adbc_driver_manager.Error) and "connection" in reason:
                raise unreachable(self._url, reason) from error
            remedy = (
                "Grant SELECT on the table to the user of the URL, and BYPASSRLS if it has row security."
                if getattr(error, "sqlstate", None) == _FORBIDDEN
                else "Run it again; if it stays, ask who runs the database."
            )
            raise UsageError(
                f"Reading {self._url.redacted} ({self._url.setting}) failed: {reason}.", remedy=remedy
            ) from error


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
    cost_cents = reduce(exact_add, (exact(row["cost_cents"]) for row in found))
    form = CostForm(
        scale, as_text=rows.sql.is_numeric and not fits_int64(scale, largest), all_clean=all_clean
    )
    return Totals(sum(row["calls"] for row in found), exact(str(cost_cents))), form


def _timeless(snapshot: Snapshot, sql: UsageSql) -> BadRows:
    return _named(snapshot.table(sql.timeless))


def _bad_rows(snapshot: Snapshot, sql: UsageSql, months: list[Month]) -> BadRows:
    if not months or not sql.may_have_bad_rows:
        return BadRows(0, ())
    return _named(snapshot.table(sql.bad_rows(months)))


def _named(found: pa.Table) -> BadRows:
    rows = found.to_pylist()
    examples = tuple(BadRow(row["id"], row["problem"]) for row in rows)
    return BadRows(rows[0]["total"] if rows else 0, examples)


def _current_users(snapshot: Snapshot, sql: UsageSql, month: Month) -> CurrentUsage:
    return snapshot.stream(sql.users(month))


def _texts(table: str, found: Columns, names: tuple[str, ...]) -> str:
    columns = ", ".join(f"{name if name in found else 'NULL'}::text AS {name}" for name in names)
    return f"SELECT {columns} FROM {table}" if found else f"SELECT {columns} WHERE false"
