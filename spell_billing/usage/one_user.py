"""Reads one user's usage and account straight from the platform's tables, for a page that waits for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

import pyarrow as pa

from spell_billing.core.drafting import Account
from spell_billing.core.errors import UsageError
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.settings.databases import DatabaseUrl
from spell_billing.usage.accounts import build_accounts
from spell_billing.usage.aggregate import DayUsage
from spell_billing.usage.tables import (
    ACCOUNT_COLUMNS,
    ACCOUNT_OPTIONAL_COLUMNS,
    PLAN_COLUMNS,
    PLAN_OPTIONAL_COLUMNS,
    USAGE_TABLE,
    texts,
)

TIMEOUT_SECONDS = 5.0
"""A page does not wait longer for a query."""

ACCOUNT_TEXTS = ACCOUNT_COLUMNS + ACCOUNT_OPTIONAL_COLUMNS
PLAN_TEXTS = PLAN_COLUMNS + PLAN_OPTIONAL_COLUMNS

_LOOKED_BACK = 12
"""Months; late usage is looked for as far back."""

Texts = Sequence[tuple[str | None, ...]]
"""Rows as a database gives them with every column cast to text."""


@dataclass(frozen=True, slots=True)
class UserMonth:
    """One user's month as the platform has it now: the days (UTC) with calls, oldest first, exact costs."""

    days: tuple[DayUsage, ...]

    @property
    def calls(self) -> int:
        """How many calls there are."""
        return sum(day.calls for day in self.days)

    @property
    def cost_cents(self) -> Decimal:
        """What they cost in all, in (possibly fractional) cents."""
        return exact_sum(*(day.cost_cents for day in self.days))


class OneUser(Protocol):
    """The users of a usage source, one at a time.

    The rows that count, and the month and day they belong to, are those of `UsageSource.freeze`. Fast where
    `usage_counters` has an index on `(user_id, created_at)`; without it a month is read for each user, and a
    large one does not come in time.

    Raises:
        UsageError: from each method, when the tables are not what billing needs, or a query takes too long.
        DatabaseUnreachableError: likewise, when the database does not answer.
    """

    def month(self, user_id: str, month: Month) -> UserMonth:
        """Count and add up the user's calls of a month; no calls where nobody has the id."""
        ...

    def account(self, user_id: str) -> Account | None:
        """Give the user's billing account and plan as drafting takes them; None without one."""
        ...


def is_at_platform(users: OneUser, user_id: str, *, since: Month, now: datetime) -> bool:
    """Tell whether a user has an account, or calls in a month from `since` on."""
    if users.account(user_id) is not None:
        return True
    month, present = since, Month.containing(now)
    while month <= present:
        if users.month(user_id, month).calls:
            return True
        month = month.next()
    return False


def has_usage(users: OneUser, user_id: str, now: datetime) -> bool:
    """Tell whether a user has an account, or calls in this month or one of the twelve before."""
    return is_at_platform(users, user_id, since=Month.containing(now).plus(-_LOOKED_BACK), now=now)


def open_one_user(url: DatabaseUrl) -> OneUser:
    """Give the users of the source that a URL names; nothing is connected before the first call."""
    # Each costs its driver's import: only the one that is used.
    if url.backend == "postgresql":
        from spell_billing.usage.one_user_postgres import PostgresOneUser  # noqa: PLC0415

        return PostgresOneUser(url)
    from spell_billing.usage.one_user_sqlite import SqliteOneUser  # noqa: PLC0415

    return SqliteOneUser(url)


def account_of(accounts: Texts, plans: Texts) -> Account | None:
    """Give the account of one user's rows, read by the same rules as all accounts.

    Args:
        accounts: Rows of `ACCOUNT_TEXTS`.
        plans: Rows of `PLAN_TEXTS`.
    """
    table = build_accounts(_table(accounts, ACCOUNT_TEXTS), _table(plans, PLAN_TEXTS))
    if not table.num_rows:
        return None
    (row,) = table.to_pylist()
    return Account(
        row["stripe_customer_id"],
        row["currency"],
        row["plan_id"],
        row["plan_name"],
        row["included_cents"] or 0,
        row["collection"],
        row["net_days"],
        row["po_number"],
        row["footer"],
    )


def took_too_long(url: DatabaseUrl) -> UsageError:
    """Give the error of a query that was ended."""
    return UsageError(
        f"Reading one user from {url.redacted} ({url.setting}) took longer than "
        f"{TIMEOUT_SECONDS:.0f} seconds.",
        remedy=f"Give {USAGE_TABLE} an index on (user_id, created_at).",
    )


def _table(rows: Texts, names: Sequence[str]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table({name: texts(column) for name, column in zip(names, columns, strict=True)})
