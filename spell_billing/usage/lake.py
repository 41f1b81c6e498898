"""The usage source in an engine over a lake: the engine adds up, and the sums of users are what is frozen."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLateError
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.errors import IntegrityError, UsageInterruptedError
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.settings.lakes import LakeUrl
from spell_billing.usage.adapter import SqlUsage
from spell_billing.usage.aggregate import sums_of_user
from spell_billing.usage.contract import (
    ONE_USER_SECONDS,
    OnProgress,
    Past,
    SourceRules,
    UserEvidence,
    outside_of,
)
from spell_billing.usage.duck import Stream
from spell_billing.usage.frozen import (
    MAX_EXAMPLES,
    NO_BAD_ROWS,
    PLAIN,
    BadRow,
    BadRows,
    DayUsage,
    Detail,
    FrozenUsage,
    Outside,
    Sums,
    Totals,
    together,
)
from spell_billing.usage.lake_engines import Engine, open_engine
from spell_billing.usage.lake_sql import DIALECTS, LakeSql, type_name
from spell_billing.usage.lake_sums import SUMS_FILE, SumReader, as_exact
from spell_billing.usage.late_bad import BAD_NOW_SCHEMA
from spell_billing.usage.row_writer import FrozenRows
from spell_billing.usage.tables import ITEM_COLUMNS, USAGE_TABLE, Column, Columns, took_too_long
from spell_billing.usage.unique import Uniqueness
from spell_billing.usage.usage_tables import UsageTables

T = TypeVar("T")

_MOST_NAMED_USERS = 1_000
_DAY_ONE = date(1970, 1, 1)


class LakeUsage(SqlUsage):
    """Reads usage and accounts through Ibis; implements `UsageSource`."""

    _url: LakeUrl

    def _read(self, act: Callable[[UsageTables], T]) -> T:
        with open_engine(self._url) as engine:
            return act(_LakeTables(self._url, self._rules, engine))

    def _read_of_user(self, user_id: str, act: Callable[[UsageTables], T]) -> T | None:
        if "\0" in user_id:
            return None
        with open_engine(self._url) as engine:
            pool = ThreadPoolExecutor(1, thread_name_prefix="one-user")
            working = pool.submit(act, _LakeTables(self._url, self._rules, engine))
            try:
                return working.result(ONE_USER_SECONDS)
            except TooLateError:
                pool.shutdown(wait=engine.cancel())
                raise took_too_long(self._url) from None
            finally:
                pool.shutdown(wait=False)

    def evidence(self, frozen: FrozenUsage, user_id: str) -> UserEvidence:
        """Ask the engine for a user's rows of a summed month; see `RowKeeper.evidence`."""
        with open_engine(self._url) as engine:
            tables = _LakeTables(self._url, self._rules, engine)
            days = tuple(tables.days(user_id, frozen.month))
            made_by = frozen.manifest.backend, frozen.manifest.cost_scale
            if made_by != (self._url.backend, tables.scale):
                return UserEvidence(days, None)
            now = tables.user_sums(user_id, frozen.month, frozen.manifest.detail)
        return UserEvidence(days, now == sums_of_user(frozen, user_id))


class _LakeTables(UsageTables):
    """Implements `UsageTables`."""

    def __init__(self, url: LakeUrl, rules: SourceRules, engine: Engine) -> None:
        super().__init__(url, rules)
        self._engine = engine
        self._found: dict[str, Any] = {}

    @property
    def scale(self) -> int:  # type: ignore[override]
        """Decimal places of a cent that the source may have."""
        return self._sql.scale

    @cached_property
    def _sql(self) -> LakeSql:
        # First, because it refuses what is missing.
        _ = self.usage_columns
        return LakeSql(self._table(USAGE_TABLE), DIALECTS[self.url.backend])

    def _table(self, name: str) -> Any:
        if name not in self._found:
            self._found[name] = self._engine.table(name)
        return self._found[name]

    def columns(self, table: str) -> Columns:
        found = self._table(table)
        if found is None:
            return {}
        return {name: Column(type_name(kind), nullable=True) for name, kind in found.schema().items()}

    def uniqueness(self, directory: Path) -> Uniqueness:
        columns = ("id", self._rules.dedupe_column) if self._rules.dedupe_column else ("id",)
        return Uniqueness(directory, columns, self._repeated, self._in_both)

    def texts(
        self, table: str, found: Columns, names: tuple[str, ...], users: Collection[str] | str | None
    ) -> pa.Table:
        schema = pa.schema([(name, pa.string()) for name in names])
        if not found:
            return schema.empty_table()
        rows = self._table(table)
        if users is not None:
            user = rows["user_id"].cast("string")
            if isinstance(users, str):
                rows = rows.filter(user == users)
            elif len(users) <= _MOST_NAMED_USERS:
                rows = rows.filter(user.isin(sorted(users)))
        present = [name for name in names if name in found]
        read = self._engine.read(rows.select(**{name: rows[name].cast("string") for name in present}))
        columns = [
            read[name].cast(pa.string()) if name in found else pa.nulls(len(read), pa.string())
            for name in names
        ]
        texts = pa.Table.from_arrays(columns, schema=schema)
        if users is None or isinstance(users, str) or len(users) <= _MOST_NAMED_USERS:
            return texts
        return texts.filter(pc.is_in(texts["user_id"], value_set=pa.array(sorted(users), pa.string())))

    def freeze(
        self, month: Month, path: Path, on_progress: OnProgress | None, detail: Detail = PLAIN
    ) -> FrozenRows:
        """Write the sums of users, and hold them against the engine's own total.

        Raises:
            UsageInterruptedError: rows of the month changed in between.
            IntegrityError: the sums differ although no row did.
        """
        reader = self._reader(month, detail)
        control, known = self._control(reader)
        if on_progress:
            on_progress(0, control.calls)
        batches = self._engine.stream(self._sql.users(month, detail, fingerprint=True))
        path = path.with_name(SUMS_FILE)
        file, frozen = reader.write(path, batches, on_progress, expected=control.calls)
        if frozen.totals != control:
            again, _ = self._control(reader)
            raise _difference(month, frozen.totals, control, changed=again != control)
        self.without_id = known["without_id"]
        bad = self._bad(self._sql.bad_rows(month)) if known["bad"] else NO_BAD_ROWS
        self.bad_rows = together(bad, self._bad(self._sql.timeless()))
        return FrozenRows(file, frozen.totals, control, reader.scale, frozen.fingerprint)

    def _control(self, reader: SumReader) -> tuple[Totals, dict[str, Any]]:
        """Count and sum a month in the engine; also how many rows are bad, and how many have no id."""
        (found,) = self._engine.read(self._sql.control(reader.month)).to_pylist()
        # Spark counts as a sum, which is null of no row.
        found |= {name: found[name] or 0 for name in ("calls", "bad", "without_id")}
        reader.require_exact(found["calls"], reader.scale, found["most"], found["least"])
        return Totals(found["calls"], as_exact(found["cost_cents"])), found

    def _reader(self, month: Month, detail: Detail = PLAIN) -> SumReader:
        quantity_scale = self._sql.quantity_scale if detail.has_quantity else 0
        return SumReader(month, self.url.backend, self._sql.scale, detail, quantity_scale)

    def _bad(self, query: Any) -> BadRows:
        examples, count = self._first(query, "id")
        return BadRows(count, tuple(BadRow(row["id"], row["problem"]) for row in examples))

    def _first(self, query: Any, by: str) -> tuple[list[dict[str, Any]], int]:
        """Return the first rows of a query by a column, and how many there are in all."""
        rows = self._engine.read(query.order_by(by).limit(MAX_EXAMPLES)).to_pylist()
        return rows, len(rows) if len(rows) < MAX_EXAMPLES else self._count(query.count())

    def _count(self, expression: Any) -> int:
        return int(self._engine.read(expression.name("count"))["count"][0].as_py())

    def user_sums(self, user_id: str, month: Month, detail: Detail) -> Sums:
        """Return what one user's rows come to now."""
        query = self._sql.users(month, detail, fingerprint=True, user_id=user_id)
        reader = self._reader(month, detail)
        rows = [row for batch in self._engine.stream(query) for row in reader.read(batch).to_pylist()]
        cents, fingerprint = (
            as_exact(exact_sum(*(row[name] for row in rows))) for name in ("cost_cents", "fingerprint")
        )
        return Sums(Totals(sum(row["calls"] for row in rows), cents), fingerprint)

    @contextmanager
    def current(
        self, month: Month, detail: Detail | None = None, user_id: str | None = None
    ) -> Iterator[pa.RecordBatchReader]:
        names = ("user_id", "calls", "cost_cents") if detail is None else ITEM_COLUMNS
        reader = self._reader(month, detail or PLAIN)
        stream = self._engine.stream(self._sql.users(month, reader.detail, user_id=user_id))
        batches = (each for batch in stream for each in reader.read(batch, names).to_batches())
        yield pa.RecordBatchReader.from_batches(reader.schema(names), batches)

    def inexact_quantities(self, month: Month, user_id: str | None = None) -> list[tuple[str, str]]:
        rows = self._engine.read(self._sql.inexact_quantities(month, user_id)).to_pylist()
        return [(row["id"], row["quantity"]) for row in rows]

    def bad_now(self, month: Month) -> pa.Table | None:
        """See `UsageTables.bad_now`; of a row only its id, because no engine guarantees that it is unique."""
        query = self._sql.bad_rows(month)
        found = self._bad(query)
        if not found.count:
            return None
        named = tuple(BadRow(each.id, f"{each.problem} in {month}") for each in found.examples)
        self.earlier_bad_rows = together(self.earlier_bad_rows, BadRows(found.count, named))
        ids = self._engine.read(query)["id"].cast(pa.string())
        unknown = (pa.nulls(len(ids), field.type) for field in list(BAD_NOW_SCHEMA)[1:])
        return pa.Table.from_arrays([ids, *unknown], schema=BAD_NOW_SCHEMA)

    def values(self, column: str, month: Month) -> Stream:
        raise NotImplementedError("the engine itself proves that no value stands twice")

    def _repeated(self, column: str, month: Month) -> list[tuple[str, int, int]]:
        rows, total = self._first(self._sql.repeated(column, month), "value")
        return [(row["value"], row["times"], total) for row in rows]

    def _in_both(self, column: str, before: Month, month: Month) -> list[tuple[str, int]]:
        rows, total = self._first(self._sql.in_both(column, before, month), "value")
        return [(row["value"], total) for row in rows]

    def outside(self, now: datetime, past: Past) -> Outside:
        future, before_first = (self._count(each) for each in self._sql.outside(now, past.first.start))
        calls = {str(month): self._count(self._sql.calls(month)) for month, _ in past.billed}
        return outside_of(past, calls, future=future, before_first=before_first)

    def days(self, user_id: str, month: Month) -> list[DayUsage]:
        reader, found = self._reader(month), []
        for batch in self._engine.stream(self._sql.days(user_id, month).order_by("day")):
            costs = reader.read(batch, ["calls", "cost_cents"]).to_pylist()
            for day, row in zip(batch["day"].to_pylist(), costs, strict=True):
                cost = as_exact(row["cost_cents"])
                found.append(DayUsage(_DAY_ONE + timedelta(days=day), row["calls"], cost))
        return found


def _difference(month: Month, frozen: Totals, control: Totals, *, changed: bool) -> Exception:
    what = (
        f"{month}: the users add up to {frozen.calls:,} calls of {frozen.cost_cents:f} cents, and the "
        f"engine's own total is {control.calls:,} calls of {control.cost_cents:f} cents"
    )
    if changed:
        return UsageInterruptedError(
            f"{what}: rows came or went between the two.",
            remedy="Nothing was frozen. Run it again when nothing writes to that month.",
        )
    return IntegrityError(
        f"{what}, also when asked again.",
        remedy="Nothing was frozen. Do not bill this month before it is known what the engine adds up.",
    )
