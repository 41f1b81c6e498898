"""The SQL that reads usage from PostgreSQL: which rows can be billed, and their values without loss."""

from dataclasses import dataclass
from datetime import datetime

from spell_billing.core.month import Month
from spell_billing.core.rate_cards import MOST_PLACES
from spell_billing.usage.amounts import MAX_ABSOLUTE_COST, MAX_SCALE
from spell_billing.usage.frozen import MAX_EXAMPLES, MOST_COUNTED, PLAIN, Detail
from spell_billing.usage.postgres_parts import CostForm, Stretch, is_blank, is_user, is_wanted, item_of
from spell_billing.usage.tables import NO_ID, USAGE_TABLE, Columns, unsuitable_type

INTEGERS = ("int2", "int4", "int8")
_TIMES = ("timestamptz", "timestamp")
_NEVER_BLANK = (*INTEGERS, "uuid")


@dataclass(frozen=True, slots=True)
class UsageSql:
    """Queries over one `usage_counters`, made for its column types; UsageError for one that is not exact."""

    columns: Columns

    def __post_init__(self) -> None:
        cost, moment = self.columns["cost_cents"].type, self.columns["created_at"].type
        if cost not in (*INTEGERS, "numeric"):
            raise unsuitable_type(USAGE_TABLE, "cost_cents", cost, "bigint or numeric")
        if moment not in _TIMES:
            raise unsuitable_type(USAGE_TABLE, "created_at", moment, "timestamptz, or timestamp in UTC")

    @property
    def is_numeric(self) -> bool:
        """Whether amounts may carry fractions of a cent."""
        return self.columns["cost_cents"].type == "numeric"

    @property
    def may_lack_ids(self) -> bool:
        """Whether a row may have no id; a billable row has all else."""
        return self.columns["id"].nullable

    @property
    def may_have_bad_rows(self) -> bool:
        """Whether the types and constraints leave room for a row of a month that cannot be billed."""
        return self._good != "true"

    def totals(self, stretch: Stretch, *, every_row: bool) -> str:
        """Count and sum in the database itself: calls, cost, and for numeric the largest scale and amount.

        With `every_row` bad rows are taken in: then `complete` counts rows without a null, or is 0 where a
        user may be blank, and a cost that is no number or too large shows in `largest`. So one knows whether
        there is any bad row, for less than judging each of them costs.
        """
        extremes = "max(min_scale(cost_cents))", "greatest(max(cost_cents), -min(cost_cents))::text"
        scale, largest = extremes if self.is_numeric else ("0", "'0'")
        complete = f"least({', '.join(['count(*)', *(f'count({name})' for name in self._nullable)])})"
        if self._may_be_blank:
            # What is blank sorts below all that begins with no blank; to trim each id takes longer.
            complete = f"CASE WHEN min(user_id::text COLLATE \"C\") < '!' THEN 0 ELSE {complete} END"
        return (
            f"SELECT count(*) AS calls, {complete} AS complete, "
            f"coalesce(sum(cost_cents), 0)::text AS cost_cents, "
            f"coalesce({scale}, 0)::bigint AS scale, coalesce({largest}, '0') AS largest "
            f"FROM {USAGE_TABLE} WHERE {self._between(*stretch)}"
            f"{'' if every_row else f' AND {self._good}'}"
        )

    def rows(self, stretch: Stretch, form: CostForm, detail: Detail = PLAIN) -> str:
        """Read the billable rows of a part of the month; items as they are, blanks included."""
        good = "" if form.all_clean else f" AND {self._good}"
        return (
            f"SELECT {self._id} AS id, {self._user} AS user_id, {self._cost(form)} AS cost_cents, "
            f"created_at{self._details(detail)} FROM {USAGE_TABLE} WHERE {self._between(*stretch)}{good}"
        )

    def users(self, month: Month) -> str:
        """Count and sum the month's billable rows per user: per text, as in frozen rows."""
        text, key = self._user_text
        return (
            f"SELECT {text} AS user_id, count(*) AS calls, sum(cost_cents)::text AS cost_cents "
            f"FROM {USAGE_TABLE} WHERE {self._in_month(month)} AND {self._good} "
            f"GROUP BY {key}"
        )

    def items(self, month: Month, detail: Detail, user_id: str | None = None) -> str:
        """Count and sum the month's billable rows per user and item, or one user's; see `late_rated`."""
        text, key = self._user_text
        item = item_of(detail)
        quantity = "coalesce(sum(quantity), 0)::text" if detail.has_quantity else "'0'"
        measured = "count(quantity)" if detail.has_quantity else "0::bigint"
        return (
            f'SELECT {text} AS user_id, {item} COLLATE "C" AS item, count(*) AS calls, '
            f"{quantity} AS quantity, {measured} AS measured, sum(cost_cents)::text AS cost_cents "
            f"FROM {USAGE_TABLE} WHERE {is_wanted(user_id)} AND {self._in_month(month)} AND {self._good} "
            f'GROUP BY {key}, {item} COLLATE "C"'
        )

    def inexact_quantities(self, month: Month, user_id: str | None = None) -> str:
        """Find rows of a month, or one user's, whose quantity is not exact: (id, quantity)."""
        return (
            f"SELECT coalesce(id::text, '{NO_ID}') AS id, quantity::text AS quantity FROM {USAGE_TABLE} "
            f"WHERE {is_wanted(user_id)} AND {self._in_month(month)} AND quantity IS NOT NULL AND NOT "
            f"(quantity < {MAX_ABSOLUTE_COST} AND quantity > -{MAX_ABSOLUTE_COST} "
            f"AND min_scale(quantity) <= {MOST_PLACES}) ORDER BY id LIMIT {MAX_EXAMPLES}"
        )

    @property
    def has_numeric_quantity(self) -> bool:
        """Whether quantities may carry fractions; UsageError for a type that is not exact."""
        kind = self.columns["quantity"].type
        if kind not in (*INTEGERS, "numeric"):
            raise unsuitable_type(USAGE_TABLE, "quantity", kind, "bigint or numeric")
        return kind == "numeric"

    @property
    def _user_text(self) -> tuple[str, str]:
        # Other types (citext, numeric) and other collations take different texts for equal.
        if not self._may_be_blank:
            return "user_id::text", "user_id"
        return ('user_id::text COLLATE "C"',) * 2

    def user_days(self, user_id: str, month: Month) -> str:
        """Count and sum the billable rows of one user per day (UTC): text day, calls, text cost."""
        return (
            f"SELECT ({self._in_utc})::date::text AS day, count(*) AS calls, "
            f"sum(cost_cents)::text AS cost_cents FROM {USAGE_TABLE} "
            f"WHERE {is_user(user_id)} AND {self._in_month(month)} AND {self._good} GROUP BY day ORDER BY day"
        )

    def bad_rows(self, month: Month, *, name_month: bool = False) -> str:
        """Find rows of a month that cannot be billed, naming the month if asked: (id, problem, total)."""
        named = f" || ' in {month}'" if name_month else ""
        return (
            f"{self._select_bad(named)} {self._in_month(month)} AND ({self._good}) IS NOT TRUE "
            f"ORDER BY id LIMIT {MAX_EXAMPLES}"
        )

    def bad_now(self, month: Month) -> str:
        """Read the month's rows that cannot be billed, in `BAD_NOW_SCHEMA`."""
        return (
            f"SELECT coalesce(id::text, '{NO_ID}') AS id, user_id::text AS user_id, "
            "cost_cents::text AS cost_cents, (extract(epoch FROM created_at) * 1000000)::bigint AS moment "
            f"FROM {USAGE_TABLE} WHERE {self._in_month(month)} AND ({self._good}) IS NOT TRUE"
        )

    def values(self, column: str, month: Month) -> str:
        """Read a column of the month's billable rows as text."""
        return (
            f'SELECT "{column}"::text AS value FROM {USAGE_TABLE} '
            f"WHERE {self._in_month(month)} AND {self._good}"
        )

    def outside(self, *, now: datetime, first: datetime) -> str:
        """Count rows after now and before the first month's start, up to a limit: future, before_first."""
        future = f"created_at > {self._moment(now)} AND created_at < 'infinity'"
        before = f"created_at < {self._moment(first)} AND created_at > '-infinity'"
        counts = (
            f"(SELECT count(*) FROM (SELECT FROM {USAGE_TABLE} WHERE {within} LIMIT {MOST_COUNTED}) AS few)"
            for within in (future, before)
        )
        return "SELECT {} AS future, {} AS before_first".format(*counts)

    def calls(self, months: list[Month]) -> str:
        """Count the billable rows of each of these months: month, calls."""
        within = " OR ".join(f"({self._in_month(month)})" for month in months)
        return (
            f"SELECT {self._month} AS month, count(*) AS calls FROM {USAGE_TABLE} "
            f"WHERE ({within}) AND {self._good} GROUP BY 1"
        )

    @property
    def timeless(self) -> str:
        """Find rows of no month; scans a table without an index on `created_at`: (id, problem, total)."""
        condition = "created_at IN ('infinity', '-infinity')"
        if self.columns["created_at"].nullable:
            condition += " OR created_at IS NULL"
        return f"{self._select_bad()} {condition} LIMIT {MAX_EXAMPLES}"

    def _select_bad(self, named: str = "") -> str:
        problem = (
            "CASE WHEN created_at IS NULL THEN 'created_at is missing' "
            "WHEN created_at IN ('infinity', '-infinity') THEN 'created_at is infinite' "
            "WHEN user_id IS NULL THEN 'user_id is missing' "
            f"WHEN {is_blank('user_id')} THEN 'user_id is blank' "
            "WHEN cost_cents IS NULL THEN 'cost_cents is missing' "
            "WHEN cost_cents::text IN ('NaN', 'Infinity', '-Infinity') "
            "THEN 'cost_cents is ' || cost_cents::text || ', not a number' "
            f"WHEN abs(cost_cents) >= {MAX_ABSOLUTE_COST} THEN 'cost_cents is too large' "
            f"ELSE 'cost_cents has more than {MAX_SCALE} decimal places' END"
        )
        return (
            f"SELECT coalesce(id::text, '{NO_ID}') AS id, {problem}{named} AS problem, "
            "count(*) OVER () AS total "
            f"FROM {USAGE_TABLE} WHERE"
        )

    @property
    def _good(self) -> str:
        conditions = [f"{name} IS NOT NULL" for name in self._nullable]
        if self._may_be_blank:
            conditions.append(f"NOT {is_blank('user_id')}")
        if self.is_numeric:
            # NaN sorts above every number, so the range excludes it, and both infinities too.
            conditions.append(
                f"cost_cents < {MAX_ABSOLUTE_COST} AND cost_cents > -{MAX_ABSOLUTE_COST} "
                f"AND min_scale(cost_cents) <= {MAX_SCALE}"
            )
        return " AND ".join(conditions) or "true"

    @property
    def _nullable(self) -> list[str]:
        return [name for name in ("user_id", "cost_cents") if self.columns[name].nullable]

    @property
    def _may_be_blank(self) -> bool:
        return self.columns["user_id"].type not in _NEVER_BLANK

    @property
    def _id(self) -> str:
        kind = self.columns["id"].type
        if kind in INTEGERS:
            return "id::bigint"
        return "id" if kind == "uuid" else "id::text"

    @property
    def _user(self) -> str:
        # A uuid travels as 16 bytes; DuckDB writes it as the same text as PostgreSQL does.
        return "user_id" if self.columns["user_id"].type == "uuid" else "user_id::text"

    def _details(self, detail: Detail) -> str:
        # As it is: to trim it here takes the server longer than all else of the row.
        item = f', "{detail.items_by}"::text AS item' if detail.items_by else ""
        if not detail.has_quantity:
            return item
        quantity = "trim_scale(quantity)::text" if self.has_numeric_quantity else "quantity::bigint"
        return f"{item}, {quantity} AS quantity"

    def _cost(self, form: CostForm) -> str:
        if not self.is_numeric:
            return "cost_cents::bigint"
        if form.as_text:
            return "trim_scale(cost_cents)::text"
        # Exact: no amount has more decimal places than the scale, so the cast has nothing to round.
        return "cost_cents::bigint" if form.scale == 0 else f"(cost_cents * {10**form.scale})::bigint"

    def _in_month(self, month: Month) -> str:
        return self._between(month.start, month.end)

    def _between(self, start: datetime, end: datetime) -> str:
        return f"created_at >= {self._moment(start)} AND created_at < {self._moment(end)}"

    def _moment(self, moment: datetime) -> str:
        # Typed literals with an offset (or none, for naive columns): no session time zone takes part.
        kind = self.columns["created_at"].type
        return f"{kind} '{moment.replace(tzinfo=None) if kind == 'timestamp' else moment}'"

    @property
    def _in_utc(self) -> str:
        return (
            "created_at AT TIME ZONE 'UTC'"
            if self.columns["created_at"].type == "timestamptz"
            else "created_at"
        )

    @property
    def _month(self) -> str:
        return f"to_char({self._in_utc}, 'YYYY-MM')"
