"""Billing accounts and plans as read (all text) into the accounts that drafting takes, and spend limits."""

import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.drafting import Account
from spell_billing.core.errors import UsageError
from spell_billing.usage.contract import ACCOUNTS_SCHEMA, SpendLimits
from spell_billing.usage.plan_values import cents_of, whole_cents
from spell_billing.usage.tables import ACCOUNTS_TABLE, BLANKS, PLANS_TABLE, positions, text_scalar, texts

DEFAULT_CURRENCY = "usd"
_DEFAULT_CURRENCY, _EMPTY = text_scalar(DEFAULT_CURRENCY), text_scalar("")
_TERMS = ("collection", "net_days", "po_number", "footer")
LIMIT_COLUMN = "spend_limit_cents"
LIMIT_COLUMNS = ("user_id", LIMIT_COLUMN)
_NAMED = 5


def build_accounts(accounts: pa.Table, plans: pa.Table, *, has_plans: bool = True) -> pa.Table:
    """Join accounts with their plans.

    Args:
        accounts: The `COLUMNS` of accounts as text.
        plans: The `COLUMNS` of plans as text.
        has_plans: Whether there is a table of plans; without one, what a plan_id says is not asked.

    Returns:
        A table in `ACCOUNTS_SCHEMA`. Blank text is null; an account whose plan is not among the plans keeps
        its plan_id and has a blank plan_name.

    Raises:
        UsageError: two accounts (or plans) with one id as text, or included_cents that is negative
            or no whole number.
    """
    has_user = pc.not_equal(pc.ascii_trim(accounts["user_id"], characters=BLANKS), _EMPTY)
    if has_user.null_count or not pc.all(has_user).as_py():
        accounts = accounts.filter(has_user)
    plans = plans.filter(pc.is_valid(plans["plan_id"]))
    refuse_duplicates(accounts["user_id"], ACCOUNTS_TABLE, "user_id")
    refuse_duplicates(plans["plan_id"], PLANS_TABLE, "plan_id")
    place = positions(accounts["plan_id"], plans["plan_id"])
    names = _blank_to_null(plans["name"]).take(place)
    if has_plans:
        is_unknown = pc.and_(place.is_null(), _blank_to_null(accounts["plan_id"]).is_valid())
        names = pc.if_else(is_unknown, _EMPTY, names)
    currency = pc.fill_null(pc.utf8_lower(_blank_to_null(accounts["currency"])), _DEFAULT_CURRENCY)
    included = texts(
        str(cents_of(row["included_cents"], "included_cents", f"{PLANS_TABLE} {row['plan_id']!r}"))
        for row in plans.to_pylist()
    )
    return pa.Table.from_arrays(
        [
            accounts["user_id"],
            _blank_to_null(accounts["stripe_customer_id"]),
            currency,
            _blank_to_null(accounts["email"]),
            accounts["plan_id"],
            names,
            included.cast(pa.int64()).take(place),
            *(_blank_to_null(accounts[name]) for name in _TERMS),
        ],
        schema=ACCOUNTS_SCHEMA,
    )


def account_of(accounts: pa.Table) -> Account | None:
    """Return the only account of a table in `ACCOUNTS_SCHEMA` as drafting takes it; None of an empty one."""
    return next(iter(accounts_by_user(accounts).values()), None)


def accounts_by_user(accounts: pa.Table) -> dict[str, Account]:
    """Return the accounts of a table in `ACCOUNTS_SCHEMA` as drafting takes them, by user."""
    found = {}
    for row in accounts.to_pylist():
        given = {name: row[name] for name in Account.__struct_fields__}
        found[row["user_id"]] = Account(**given | {"included_cents": row["included_cents"] or 0})
    return found


def _blank_to_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(column)
    has_text = pc.utf8_length(trimmed).cast(pa.bool_())
    return pc.if_else(has_text, trimmed, pa.nulls(len(trimmed), pa.string()))


def refuse_duplicates(column: pa.ChunkedArray, table: str, name: str) -> None:
    """Refuse a table in which an id stands twice, with a UsageError that names it."""
    if len(pc.unique(column)) == len(column):
        return
    counts = pc.value_counts(column)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    raise UsageError(
        f"{table} has more than one row for {name} {', '.join(map(repr, sorted(repeated)[:5]))}.",
        remedy=f"Leave one row for each {name}, and make it the table's primary key.",
    )


def require_right(limits: SpendLimits) -> None:
    """Refuse limits that are none.

    Raises:
        UsageError: naming the first users and their values.
    """
    if not limits.wrong:
        return
    named = [f"{text!r} for user {user}" for user, text in sorted(limits.wrong.items())[:_NAMED]]
    more = f" and {len(limits.wrong) - _NAMED:,} more" if len(limits.wrong) > _NAMED else ""
    raise UsageError(
        f"{ACCOUNTS_TABLE}.{LIMIT_COLUMN} is {', '.join(named)}{more}, not a whole number of cents "
        "that is zero or more.",
        remedy="Set it to a whole number of cents, or to null for a user without a limit.",
    )


def build_limits(rows: pa.Table) -> SpendLimits:
    """Read `LIMIT_COLUMNS`, all text; blank text and null are no limit."""
    rows = rows.filter(pc.and_(pc.is_valid(rows["user_id"]), pc.is_valid(rows[LIMIT_COLUMN])))
    cents, wrong = dict[str, int](), dict[str, str]()
    for user_id, text in zip(*(rows[name].to_pylist() for name in LIMIT_COLUMNS), strict=True):
        found = whole_cents(text)
        if found is not None:
            cents[user_id] = found
        elif text.strip():
            wrong[user_id] = text
    return SpendLimits(cents, wrong)
