"""Spend limits of accounts as read (all text) into whole minor units. No bill depends on them."""

import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.errors import UsageError
from spell_billing.usage.contract import SpendLimits
from spell_billing.usage.tables import ACCOUNTS_TABLE

LIMIT_COLUMN = "spend_limit_cents"
LIMIT_COLUMNS = ("user_id", LIMIT_COLUMN)
_MOST_DIGITS = 18
_NAMED = 5


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
        found = _whole_cents(text) if text.strip() else None
        if found is not None:
            cents[user_id] = found
        elif text.strip():
            wrong[user_id] = text
    return SpendLimits(cents, wrong)


def _whole_cents(text: str) -> int | None:
    whole, _, fraction = text.strip().partition(".")
    if not (whole.isascii() and whole.isdigit()) or len(whole) > _MOST_DIGITS or fraction.strip("0"):
        return None
    return int(whole)
