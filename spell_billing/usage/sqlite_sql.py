"""The SQL that reads usage from SQLite, where any column may hold a value of any type.

Times are text. As text, `...00:00:00` sorts below `...00:00:00.000000`, and a zone moves a row to another
day; so text only narrows the search to the month and a day on both sides (an index helps), and who belongs
to the month is decided exactly: here for what SQLite counts, in `sqlite_times` for what is written.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from spell_billing.core.items import OTHER
from spell_billing.core.month import Month
from spell_billing.usage.frozen import MAX_EXAMPLES, MOST_COUNTED, PLAIN, Detail
from spell_billing.usage.tables import NO_ID, USAGE_TABLE, Columns

_DAY = timedelta(days=1)
_MOST_DIGITS = 19
_BLANKS = "' ' || char(9, 10, 13)"
_LARGEST_NUMBER = 2**63 - 1
_DIGIT = "[0-9]"
_IS_DATE = " OR ".join(
    f"created_at GLOB '{_DIGIT * 4}-{month}-[0-3]{_DIGIT}*'" for month in ("0[1-9]", "1[0-2]")
)
"""What begins like a date with a month: of another one, as 0000-00-00, no month would read the row."""
# Month boundaries and zone offsets are whole minutes, so what follows the minutes decides nothing. The
# offset is brought to the one spelling that SQLite reads.
_OFFSET = "replace(substr(created_at, 17 + instr(substr(created_at, 17), '{sign}')), ':', '')"
_ZONE = " ".join(
    f"WHEN instr(substr(created_at, 17), '{sign}') THEN '{sign}' || substr({offset}, 1, 2) || ':' || "
    f"substr({offset} || '00', 3, 2)"
    for sign, offset in (("+", _OFFSET.format(sign="+")), ("-", _OFFSET.format(sign="-")))
)
_UTC_MONTH = (
    # The usual time has no offset, and its month is its first seven characters: a tenth of the work.
    "CASE WHEN substr(created_at, 17) GLOB '*[-+]*' "
    "THEN strftime('%Y-%m', substr(created_at, 1, 10) || ' ' || substr(created_at, 12, 5) || "
    f"CASE {_ZONE} END) "
    "ELSE substr(created_at, 1, 7) END"
)
# What is blank sorts below all that begins with no blank: few texts are trimmed.
_BLANK_USER = f"typeof(user_id) = 'text' AND user_id COLLATE BINARY < '!' AND trim(user_id, {_BLANKS}) = ''"
_GOOD = f"typeof(cost_cents) = 'integer' AND typeof(user_id) IN ('text', 'integer') AND NOT ({_BLANK_USER})"
_PROBLEM = (
    "CASE WHEN user_id IS NULL THEN 'user_id is missing' "
    f"WHEN {_BLANK_USER} THEN 'user_id is blank' "
    "WHEN typeof(user_id) NOT IN ('text', 'integer') THEN 'user_id is neither text nor an integer' "
    "WHEN cost_cents IS NULL THEN 'cost_cents is missing' "
    "ELSE 'cost_cents is ' || substr(quote(cost_cents), 1, 40) || ', not a whole number of cents' END"
)
_TIME_PROBLEM = (
    "CASE WHEN created_at IS NULL THEN 'created_at is missing' "
    "ELSE 'created_at is ' || substr(quote(created_at), 1, 40) || ', not an ISO 8601 time' END"
)


@dataclass(frozen=True, slots=True)
class SqliteUsageSql:
    """Queries over one `usage_counters` of a SQLite file."""

    columns: Columns

    @property
    def has_integer_ids(self) -> bool:
        """Whether SQLite itself makes sure that every id is an integer."""
        return self.columns["id"].type == "integer" and not self.columns["id"].nullable

    def totals(self, month: Month) -> str:
        """Count and sum the billable rows; the cost in two halves, because SQLite's sums end at 63 bits."""
        stretches = " UNION ALL ".join(
            "SELECT count(*) AS calls, coalesce(sum(cost_cents >> 32), 0) AS high, "
            f"coalesce(sum(cost_cents & 4294967295), 0) AS low FROM {USAGE_TABLE} WHERE {within} AND {_GOOD}"
            for within in _stretches(month)
        )
        return f"SELECT sum(calls) AS calls, sum(high) AS high, sum(low) AS low FROM ({stretches})"

    def rows(self, month: Month, *, identity: str | None = None, detail: Detail = PLAIN) -> str:
        """Read the rows of the month and of a day on both sides: times as text, and what is wrong with a row.

        No value but the quantity is null. `identity` is a column to read as text instead of the id.
        """
        text = f"coalesce(CAST(\"{identity or 'id'}\" AS TEXT), '{NO_ID}')"
        row_id = "id" if identity is None and self.has_integer_ids else text
        item = f"coalesce(nullif(trim(CAST(\"{detail.items_by}\" AS TEXT), {_BLANKS}), ''), '{OTHER}')"
        details = f", {item} AS item" if detail.items_by else ""
        if detail.has_quantity:
            details += ", CASE typeof(quantity) WHEN 'integer' THEN quantity END AS quantity"
        return (
            f"SELECT {row_id} AS id, coalesce(CAST(user_id AS TEXT), '') AS user_id, "
            "CASE typeof(cost_cents) WHEN 'integer' THEN cost_cents ELSE 0 END AS cost_cents, created_at, "
            f"CASE WHEN {_GOOD} THEN '' ELSE {_PROBLEM} END AS problem{details} "
            f"FROM {USAGE_TABLE} WHERE {_nearby(month)}"
        )

    def inexact_quantities(self, month: Month) -> str:
        """Find rows near a month whose quantity is no whole number: (id, quantity)."""
        return (
            f"SELECT coalesce(CAST(id AS TEXT), '{NO_ID}') AS id, substr(quote(quantity), 1, 40) AS quantity "
            f"FROM {USAGE_TABLE} WHERE {_nearby(month)} AND typeof(quantity) NOT IN ('integer', 'null') "
            f"LIMIT {MAX_EXAMPLES}"
        )

    def timeless(self, month: Month) -> str:
        """Find rows of no month that `rows` does not read, in the whole table: (id, problem, total)."""
        return (
            f"SELECT coalesce(CAST(id AS TEXT), '{NO_ID}') AS id, {_TIME_PROBLEM} AS problem, "
            f"count(*) OVER () AS total FROM {USAGE_TABLE} "
            f"WHERE (typeof(created_at) <> 'text' OR NOT ({_IS_DATE})) "
            f"AND ({_nearby(month)}) IS NOT TRUE LIMIT {MAX_EXAMPLES}"
        )

    def outside(self, *, now: datetime, first: datetime) -> str:
        """Count rows after now, and rows before the first month's start, up to a limit: future, before_first.

        SQLite's own functions read the times: exact enough for a number in a warning.
        """
        future = f"created_at >= '{now.date() - _DAY}' AND created_at < x'' AND {_is_from(now)}"
        before = f"created_at > '' AND created_at < '{first.date() + _DAY}' AND NOT {_is_from(first)}"
        counts = (
            f"(SELECT count(*) FROM (SELECT 1 FROM {USAGE_TABLE} WHERE {within} LIMIT {MOST_COUNTED}))"
            for within in (future, before)
        )
        return "SELECT {} AS future, {} AS before_first".format(*counts)


COLUMNS = "SELECT name, type, pk FROM pragma_table_xinfo('{table}') WHERE hidden <> 1"
"""Names a table's columns: generated ones too, which `table_info` conceals; no virtual table's arguments."""

KEY_INDEX = "SELECT 1 FROM pragma_index_list('{table}') WHERE origin = 'pk'"
"""Finds the index of a table's primary key."""

UNIQUE_COLUMNS = (
    "SELECT lower(part.name) AS name FROM pragma_index_list('{table}') AS list "
    "JOIN pragma_index_xinfo(list.name) AS part "
    'WHERE list."unique" = 1 AND list.partial = 0 AND part.key = 1 '
    "GROUP BY list.name HAVING count(*) = 1 AND max(part.cid) >= 0"
)
"""Names the columns that a unique index of all rows has for itself."""


IS_USER = "user_id IN (:text, :number) AND CAST(user_id AS TEXT) = :text"
"""Whether a row is of `of_user`. A column without a type holds an id as the integer or the text that was
inserted; an index finds both. The cast then refuses another spelling: 007 is not user 7."""


def of_user(user_id: str) -> dict[str, str | int | None]:
    """Return the parameters of `IS_USER`."""
    digits = user_id.removeprefix("-")
    is_number = len(digits) <= _MOST_DIGITS and digits.isascii() and digits.isdecimal()
    # A larger one cannot stand in a column of numbers, nor be handed to the driver.
    number = int(user_id) if is_number and abs(int(user_id)) <= _LARGEST_NUMBER else None
    return {"text": user_id, "number": number}


def _is_from(moment: datetime) -> str:
    return f"julianday(created_at) >= julianday('{moment.replace(tzinfo=None)}')"


def _nearby(month: Month) -> str:
    # Only text compares so.
    first, after = _bounds(month)
    return f"created_at >= '{first - _DAY}' AND created_at < '{after + _DAY}'"


def _stretches(month: Month) -> list[str]:
    """Return the conditions of the month's stretches: its edges, judged row by row, and all in between."""
    first, after = _bounds(month)
    edges = [
        f"created_at >= '{edge - _DAY}' AND created_at < '{edge + _DAY}' AND {_UTC_MONTH} = '{month}'"
        for edge in (first, after)
    ]
    return [*edges, f"created_at >= '{first + _DAY}' AND created_at < '{after - _DAY}'"]


def _bounds(month: Month) -> tuple[date, date]:
    return month.start.date(), month.end.date()
