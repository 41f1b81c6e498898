"""The platform's tables as billing needs them: which columns, and what to say when one is missing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.errors import UsageError
from spell_billing.core.rate_cards import RATE_CARDS_TABLE, CardRow
from spell_billing.settings.lakes import UsageUrl
from spell_billing.usage.contract import ONE_USER_SECONDS

USAGE_TABLE = "usage_counters"
ACCOUNTS_TABLE = "billing_accounts"
PLANS_TABLE = "billing_plans"
SUBSCRIPTIONS_TABLE = "plan_subscriptions"
DISCOUNTS_TABLE = "billing_discounts"

_OPTIONAL = {
    ACCOUNTS_TABLE: ("currency", "email", "collection", "net_days", "po_number", "footer", "plan_id"),
    PLANS_TABLE: (
        *("name", "included_cents", "monthly_fee_cents", "minimum_cents", "usage_discount_percent"),
        "currency",
    ),
    DISCOUNTS_TABLE: ("name", "user_id", "plan_id", "percent", "amount_cents"),
}
_REQUIRED = {
    USAGE_TABLE: ("id", "user_id", "cost_cents", "created_at"),
    ACCOUNTS_TABLE: ("user_id", "stripe_customer_id"),
    PLANS_TABLE: ("plan_id",),
    SUBSCRIPTIONS_TABLE: ("user_id", "plan_id", "starts_at", "ends_at"),
    DISCOUNTS_TABLE: ("starts_at", "ends_at"),
    RATE_CARDS_TABLE: ("model", "unit", "unit_price_cents"),
}
COLUMNS = {table: required + _OPTIONAL.get(table, ()) for table, required in _REQUIRED.items()} | {
    RATE_CARDS_TABLE: CardRow.__struct_fields__
}
"""The columns that are read of each table, those that it may lack included."""


ITEM_COLUMNS = ("user_id", "item", "calls", "quantity", "measured", "cost_cents")
"""What a source streams of users and items: calls, their quantity, how many have one, the stored cost."""

NO_ID = "no id"
"""What is written in place of an id that a row does not have."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the database describes it: its type's name in lower case, and whether it may be null."""

    type: str
    nullable: bool


Columns = Mapping[str, Column]


def require_columns(url: UsageUrl, table: str, found: Columns, *further: str) -> None:
    """Refuse a table that is missing or lacks a column that billing, or a setting, needs.

    Raises:
        UsageError: naming table, column and remedy.
    """
    required = (*_REQUIRED[table], *further)
    if not found:
        raise UsageError(
            f"The table {table} is missing in {url.redacted} ({url.setting}).",
            remedy=f"Create it (or a view of that name) with the columns {', '.join(required)}, point "
            f"{url.setting} to the database that has it, or grant its user access to the schema.",
        )
    missing = [name for name in required if name not in found]
    if missing:
        raise UsageError(
            f"The table {table} in {url.redacted} ({url.setting}) has no column {', '.join(missing)}.",
            remedy="Add the column, or put a view of that name in front of the table that has it.",
        )


BLANKS = " \t\r\n"
"""What is trimmed off an item, so that what looks the same is one. A user id of nothing else is none."""


def took_too_long(url: UsageUrl) -> UsageError:
    """Return the error of a query about one user that was ended."""
    return UsageError(
        f"Reading one user from {url.redacted} ({url.setting}) took longer than "
        f"{ONE_USER_SECONDS:.0f} seconds.",
        remedy=f"Give {USAGE_TABLE} an index on (user_id, created_at).",
    )


def unsuitable_type(table: str, column: str, found: str, wanted: str) -> UsageError:
    """Return the error for a column whose type cannot be billed exactly."""
    return UsageError(
        f"The column {table}.{column} has the type {found}, which cannot be billed exactly.",
        remedy=f"Change it to {wanted}, or put a view of that name in front that converts it.",
    )


def texts(values: Iterable[str | bytes | None]) -> pa.Array:
    """Build a column of text. `pyarrow.array` would load pandas first, which takes 0.4 seconds."""
    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()


def text_scalar(value: str) -> pa.Scalar:
    """Make a text for Arrow's functions, which load pandas to take one of Python's."""
    return texts([value])[0]


def positions(values: pa.ChunkedArray, among: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Return the position of each value among others, null where it is not there; null is nowhere."""
    # To look up nothing would load pandas first.
    if not len(among):
        return pa.nulls(len(values), pa.int32())
    return pc.index_in(values, value_set=among.combine_chunks(), skip_nulls=True)


def require_text(rows: pa.Table) -> None:
    """Refuse user ids and items that are no text: some databases (SQLite, SQL_ASCII) keep any bytes as such.

    Raises:
        UsageError: naming the row.
    """
    for name in ("user_id", "item"):
        if name in rows.column_names and pa.types.is_string(rows.schema.field(name).type):
            _require_text(rows, name)


def _require_text(rows: pa.Table, name: str) -> None:
    values = rows.column(name)
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        for row_id, value in zip(rows.column("id"), values.cast(pa.binary()), strict=True):
            try:
                value.as_buffer().to_pybytes().decode()
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"The {name} of the row with id {row_id} of {USAGE_TABLE} is not text: {error.reason} in "
                    f"{error.object!r}.",
                    remedy="Write it in UTF-8.",
                ) from None
        raise


def is_rising(column: pa.ChunkedArray) -> bool:
    """Return whether each text is greater than the one before it, so that none comes twice; none is null."""
    return column.null_count == 0 and pc.all(pc.less(column[:-1], column[1:])).as_py() is not False
