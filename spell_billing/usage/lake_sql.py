"""What is asked of an engine over a lake, as Ibis expressions that each engine's own SQL is compiled from.

Only operations that are exact in all of them: a distinct count, say, is approximate in ClickHouse. Amounts
are added up as decimals of 38 digits. What an engine does beyond them differs (DuckDB, Trino, BigQuery and
Spark in ANSI mode fail, Spark without it returns null, ClickHouse wraps around): so beside each sum stand its
greatest and least amount and their number, by which `is_exact` proves that no part of the sum could leave the
38 digits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from spell_billing.core.items import OTHER
from spell_billing.core.month import Month
from spell_billing.core.rate_cards import MOST_PLACES
from spell_billing.usage.amounts import MAX_ABSOLUTE_COST, MAX_SCALE
from spell_billing.usage.frozen import MAX_EXAMPLES, MOST_COUNTED, PLAIN, Detail
from spell_billing.usage.tables import NO_ID, USAGE_TABLE, unsuitable_type

DIGITS = 38
"""Of an exact sum, decimal places included."""
_WHOLE_DIGITS = 18
_SECONDS_A_DAY = 86_400
_BETWEEN = "|"


@dataclass(frozen=True)
class Dialect:
    """What engines say differently: the type of exact amounts, a 64-bit hash of a text, infinite times."""

    decimal: Callable[[int], dt.Decimal]
    hash64: Callable[[ir.StringValue], ir.IntegerValue]
    is_infinite: Callable[[ir.TimestampValue], ir.BooleanValue] = lambda _: ibis.literal(False)  # noqa: FBT003 - Ibis takes it so


def is_exact(calls: int, scale: int, *amounts: Decimal | None) -> bool:
    """Return whether no sum of so many amounts between these can leave 38 digits, in whatever order."""
    with localcontext(prec=2 * DIGITS):
        largest = max((abs(each) for each in amounts if each is not None), default=Decimal(0))
        return bool(largest.scaleb(scale) * calls < Decimal(10) ** DIGITS)


def type_name(kind: dt.DataType) -> str:
    """Return a column's type as PostgreSQL would name it, where it has a kin there."""
    if kind.is_integer():
        return "bigint"
    if kind.is_decimal():
        return "numeric"
    if kind.is_floating():
        return "double precision"
    return "text" if kind.is_string() else str(kind)


class LakeSql:
    """Expressions over one `usage_counters`; UsageError for a column whose type is not exact."""

    def __init__(self, usage: ir.Table, dialect: Dialect) -> None:
        self._usage = usage
        self._dialect = dialect
        self.scale = self._scale_of("cost_cents", MAX_SCALE)
        moment, user = usage.schema()["created_at"], usage.schema()["user_id"]
        if not moment.is_timestamp():
            raise unsuitable_type(USAGE_TABLE, "created_at", str(moment), "timestamp")
        if not (user.is_string() or user.is_integer() or user.is_uuid()):
            raise unsuitable_type(USAGE_TABLE, "user_id", str(user), "text, an integer or a uuid")
        self._zone = moment.timezone

    def control(self, month: Month) -> ir.Table:
        """Count and sum the month in one row: what the sums of users are held against."""
        rows = self._in_month(self._usage, month)
        good = self._good(rows)
        return rows.aggregate(
            **self._sums(rows, where=good),
            bad=rows.count(where=~good),
            without_id=rows.count(where=good & ~self._has_value(rows, "id")),
        )

    def users(
        self,
        month: Month,
        detail: Detail = PLAIN,
        *,
        fingerprint: bool = False,
        user_id: str | None = None,
    ) -> ir.Table:
        """Count and sum the month's billable rows by user, and by item where there is one."""
        rows = self._billable(month, user_id)
        keys: dict[str, Any] = {"user_id": self._user(rows)}
        if detail.items_by is not None:
            keys["item"] = rows[detail.items_by].cast("string").strip().nullif("").fill_null(OTHER)
        sums = self._sums(rows)
        if detail.has_quantity:
            quantity = rows["quantity"].cast(self._dialect.decimal(self.quantity_scale))
            sums |= {
                "quantity": quantity.sum(),
                "measured": quantity.count(),
                "most_quantity": quantity.max(),
                "least_quantity": quantity.min(),
            }
        if fingerprint:
            sums["fingerprint"] = self._fingerprint(rows, detail).sum()
        return rows.group_by(**keys).aggregate(**sums)

    def days(self, user_id: str, month: Month) -> ir.Table:
        """Count and sum one user's billable rows by day, which is given as days since 1970."""
        rows = self._billable(month, user_id)
        day = (rows["created_at"].epoch_seconds() // _SECONDS_A_DAY).cast("int64")
        return rows.group_by(day=day).aggregate(**self._sums(rows))

    def bad_rows(self, month: Month) -> ir.Table:
        """Find rows of a month that cannot be billed: id, problem."""
        rows = self._in_month(self._usage, month)
        bad = rows.filter(~self._good(rows))
        problem = ibis.cases(
            (bad["user_id"].isnull(), "user_id is missing"),
            (~self._has_user(bad), "user_id is blank"),
            (bad["cost_cents"].isnull(), "cost_cents is missing"),
            else_="cost_cents is too large",
        )
        return bad.select(id=self._text(bad, "id").fill_null(NO_ID), problem=problem)

    def timeless(self) -> ir.Table:
        """Find rows of no month: id, problem."""
        moment = self._usage["created_at"]
        rows = self._usage.filter(moment.isnull() | self._dialect.is_infinite(moment))
        problem = ibis.ifelse(rows["created_at"].isnull(), "created_at is missing", "created_at is infinite")
        return rows.select(id=self._text(rows, "id").fill_null(NO_ID), problem=problem)

    def repeated(self, column: str, month: Month) -> ir.Table:
        """Find values of a column that stand more than once among the month's billable rows: value, times."""
        rows = self._billable(month)
        rows = rows.filter(self._has_value(rows, column))
        values = rows.group_by(value=self._text(rows, column)).aggregate(times=rows.count())
        return values.filter(values["times"] > 1)

    def in_both(self, column: str, before: Month, month: Month) -> ir.Table:
        """Find values of a column that billable rows of both months have: value."""
        of_each = []
        for each in (before, month):
            rows = self._billable(each)
            rows = rows.filter(self._has_value(rows, column))
            of_each.append(rows.select(value=self._text(rows, column)).distinct())
        return of_each[1].intersect(of_each[0])

    def inexact_quantities(self, month: Month, user_id: str | None = None) -> ir.Table:
        """Find rows of a month, or of one user, whose quantity is too large to be exact: id, quantity."""
        self._scale_of("quantity", MOST_PLACES)
        rows = self._in_month(self._usage, month)
        if user_id is not None:
            rows = rows.filter(self._user(rows) == user_id)
        quantity = rows["quantity"]
        large = rows.filter((quantity >= MAX_ABSOLUTE_COST) | (quantity <= -MAX_ABSOLUTE_COST))
        return large.select(
            id=self._text(large, "id").fill_null(NO_ID), quantity=self._text(large, "quantity")
        ).limit(MAX_EXAMPLES)

    def outside(self, now: datetime, first: datetime) -> Sequence[ir.IntegerScalar]:
        """Count rows after now, and rows before the first month's start, up to a limit."""
        moment = self._usage["created_at"]
        after, before = moment > self._moment(now), moment < self._moment(first)
        finite = ~self._dialect.is_infinite(moment)
        return [self._usage.filter(each, finite).limit(MOST_COUNTED).count() for each in (after, before)]

    def calls(self, month: Month) -> ir.IntegerScalar:
        """Count the billable rows of a month."""
        return self._billable(month).count()

    @property
    def quantity_scale(self) -> int:
        """Decimal places that a quantity may have."""
        return self._scale_of("quantity", MOST_PLACES)

    def _scale_of(self, column: str, most: int) -> int:
        kind = self._usage.schema()[column]
        if kind.is_integer():
            return 0
        if isinstance(kind, dt.Decimal) and kind.scale is not None and kind.scale <= most:
            return int(kind.scale)
        raise unsuitable_type(
            USAGE_TABLE, column, str(kind), f"an integer, or decimal with up to {most} decimal places"
        )

    def _billable(self, month: Month, user_id: str | None = None) -> ir.Table:
        rows = self._in_month(self._usage, month)
        rows = rows.filter(self._good(rows))
        return rows if user_id is None else rows.filter(self._user(rows) == user_id)

    def _in_month(self, rows: ir.Table, month: Month) -> ir.Table:
        moment = rows["created_at"]
        return rows.filter(moment >= self._moment(month.start), moment < self._moment(month.end))

    def _moment(self, moment: datetime) -> ir.TimestampScalar:
        # A column without a zone means UTC, and so does the session of an engine.
        return ibis.literal(moment if self._zone is not None else moment.replace(tzinfo=None))

    def _good(self, rows: ir.Table) -> ir.BooleanValue:
        cost = rows["cost_cents"]
        good = self._has_user(rows) & cost.notnull()
        kind = cost.type()
        if isinstance(kind, dt.Decimal) and (kind.precision or DIGITS) - self.scale > _WHOLE_DIGITS:
            good &= (cost < MAX_ABSOLUTE_COST) & (cost > -MAX_ABSOLUTE_COST)
        return good

    @staticmethod
    def _has_user(rows: ir.Table) -> ir.BooleanValue:
        user = rows["user_id"]
        return user.notnull() & (user.strip() != "") if user.type().is_string() else user.notnull()

    def _sums(self, rows: ir.Table, where: ir.BooleanValue | None = None) -> dict[str, Any]:
        amount = rows["cost_cents"].cast(self._dialect.decimal(self.scale))
        return {
            "calls": rows.count(where=where),
            "cost_cents": amount.sum(where=where),
            "most": amount.max(where=where),
            "least": amount.min(where=where),
        }

    def _user(self, rows: ir.Table) -> ir.StringColumn:
        return self._text(rows, "user_id")

    @staticmethod
    def _text(rows: ir.Table, column: str) -> ir.StringColumn:
        return rows[column].cast("string")

    def _has_value(self, rows: ir.Table, column: str) -> ir.BooleanValue:
        text = self._text(rows, column)
        return text.notnull() & (text != "")

    def _fingerprint(self, rows: ir.Table, detail: Detail) -> ir.DecimalColumn:
        """Return a number of each row, whose sum tells one set of rows from another, in whatever order."""
        names = ["id", "user_id", "cost_cents", "created_at"]
        names += [detail.items_by] if detail.items_by else []
        names += ["quantity"] if detail.has_quantity else []
        text = self._text(rows, names[0]).fill_null("")
        for name in names[1:]:
            text = text + _BETWEEN + self._text(rows, name).fill_null("")
        return self._dialect.hash64(text).cast(self._dialect.decimal(0))


_BIGNUMERIC = dt.Decimal(76, 38)


def _builtin(name: str, takes: dt.DataType, gives: dt.DataType) -> Callable[[Any], Any]:
    """Return a function that the engine has, by the name that it has there."""

    def function(_: Any) -> Any: ...

    found: Callable[[Any], Any] = ibis.udf.scalar.builtin(function, name=name, signature=((takes,), gives))
    return found


_utf8 = _builtin("to_utf8", dt.string, dt.binary)
_trino_hash = _builtin("xxhash64", dt.binary, dt.binary)
_trino_number = _builtin("from_big_endian_64", dt.binary, dt.int64)


def _decimal(scale: int) -> dt.Decimal:
    return dt.Decimal(DIGITS, scale)


DIALECTS = {
    # No other engine here has infinite times.
    "duckdb": Dialect(
        _decimal,
        _builtin("md5_number_lower", dt.string, dt.uint64),
        is_infinite=_builtin("isinf", dt.timestamp, dt.boolean),
    ),
    "spark": Dialect(_decimal, _builtin("xxhash64", dt.string, dt.int64)),
    "clickhouse": Dialect(_decimal, _builtin("sipHash64", dt.string, dt.uint64)),
    # Its NUMERIC has 29 digits before the point and 9 after it; BIGNUMERIC has 38 each.
    "bigquery": Dialect(lambda _: _BIGNUMERIC, _builtin("farm_fingerprint", dt.string, dt.int64)),
    "snowflake": Dialect(_decimal, _builtin("md5_number_lower64", dt.string, dt.uint64)),
    "trino": Dialect(_decimal, lambda text: _trino_number(_trino_hash(_utf8(text)))),
}
