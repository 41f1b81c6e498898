"""The platform's tables as one snapshot of an SQL database has them: what the adapters share."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from datetime import datetime
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.core.rate_cards import RATE_CARDS_TABLE
from spell_billing.settings.lakes import UsageUrl
from spell_billing.usage.accounts import LIMIT_COLUMN, LIMIT_COLUMNS, build_accounts, build_limits
from spell_billing.usage.contract import OnProgress, Past, SourceRules, SpendLimits
from spell_billing.usage.duck import Stream
from spell_billing.usage.frozen import NO_BAD_ROWS, PLAIN, DayUsage, Detail, FrozenUsage, Outside, Totals
from spell_billing.usage.plan_book import PlanBook, book_of, last_plans
from spell_billing.usage.plans import build_plans
from spell_billing.usage.rate_cards import (
    RateCards,
    read_rate_cards,
    refuse_floats,
    require_exact_quantities,
    require_known_plans,
)
from spell_billing.usage.row_writer import FrozenRows
from spell_billing.usage.so_far import priced, totals_by
from spell_billing.usage.tables import (
    ACCOUNTS_TABLE,
    COLUMNS,
    DISCOUNTS_TABLE,
    PLANS_TABLE,
    SUBSCRIPTIONS_TABLE,
    USAGE_TABLE,
    Columns,
    positions,
    require_columns,
    texts,
)
from spell_billing.usage.unique import Uniqueness, columns_to_prove, repeated_values, values_in_both


class UsageTables(ABC):
    """The platform's tables as one snapshot sees them.

    Attributes:
        scale: Decimal places of a cent that the source may have.
        bad_rows: What cannot be billed of the month that was frozen, or of no month.
        earlier_bad_rows: Likewise of the months that were compared.
        without_id: Rows without an id in the month that an engine added up.
    """

    scale = 0

    def __init__(self, url: UsageUrl, rules: SourceRules) -> None:
        self.url = url
        self._rules = rules
        self.bad_rows = NO_BAD_ROWS
        self.earlier_bad_rows = NO_BAD_ROWS
        self.without_id = 0
        self._known: dict[str, Columns] = {}

    @abstractmethod
    def columns(self, table: str) -> Columns:
        """Describe a table's columns; none of a table that is missing."""

    def unique_columns(self) -> set[str]:
        """Return the columns of usage that the database itself guarantees to have no value twice."""
        return set()

    @abstractmethod
    def texts(
        self, table: str, found: Columns, names: tuple[str, ...], users: Collection[str] | str | None
    ) -> pa.Table:
        """Read columns as text, null where the table lacks one: of all rows, of some users, or of one."""

    @abstractmethod
    def freeze(
        self, month: Month, path: Path, on_progress: OnProgress | None, detail: Detail = PLAIN
    ) -> FrozenRows:
        """Write the month's billable rows, or their sums, proven against the database's own count and sum."""

    @abstractmethod
    def inexact_quantities(self, month: Month, user_id: str | None = None) -> list[tuple[str, str]]:
        """Return the id and the quantity of rows of a month whose quantity is not exact, some of them."""

    @abstractmethod
    def current(self, month: Month, detail: Detail | None = None, user_id: str | None = None) -> Stream:
        """Open a stream of what users, or one, have in a month, in any number of parts.

        Of each user_id calls and cost_cents; with a detail of each item too, in `ITEM_COLUMNS`.
        """

    @abstractmethod
    def bad_now(self, month: Month) -> pa.Table | None:
        """Return an earlier month's rows that cannot be billed, in `BAD_NOW_SCHEMA`; after `current`."""

    @abstractmethod
    def values(self, column: str, month: Month) -> Stream:
        """Open a stream of a column of the month's billable rows."""

    @abstractmethod
    def outside(self, now: datetime, past: Past) -> Outside:
        """Look for rows of months that are not compared."""

    @abstractmethod
    def days(self, user_id: str, month: Month) -> list[DayUsage]:
        """Add up one user's billable rows of a month by day."""

    def foreign(self) -> tuple[str, ...]:
        """Name tables of which another server may hide rows from billing."""
        return ()

    def so_far(self, month: Month) -> dict[str, Totals]:
        """Add up the month's billable rows by user, at their stored cost or at the prices of its cards."""
        found = self.priced(month)
        if found is not None:
            return found
        with self.current(month) as reader:
            return totals_by("user_id", reader)

    @cached_property
    def usage_columns(self) -> Columns:
        """The columns of usage, with all that are needed."""
        found = self.columns(USAGE_TABLE)
        require_columns(self.url, USAGE_TABLE, found, *filter(None, [self._rules.dedupe_column]))
        return found

    @cached_property
    def items_by(self) -> str | None:
        """The column of usage by which lines are made; a UsageError where the table lacks it."""
        name = self._rules.items_by
        if name is not None and name not in self.usage_columns:
            raise UsageError(
                f"LINE_ITEMS_BY={name} names no column of {USAGE_TABLE} in {self.url.redacted} "
                f"({self.url.setting}).",
                remedy=f"Set it to a column of {USAGE_TABLE}, or leave it unset for one line of usage.",
            )
        return name

    def rate_cards(self, month: Month) -> RateCards | None:
        """Read the rate cards of a month; None where it has none."""
        found = self._columns_or_none(RATE_CARDS_TABLE)
        if not found:
            return None
        refuse_floats(found)
        table = self._rows(RATE_CARDS_TABLE)
        cards = read_rate_cards(table, month, self.usage_columns, items_by=self.items_by)
        if cards is not None and cards.has_plans and self._columns_or_none(PLANS_TABLE):
            require_known_plans(cards, self._rows(PLANS_TABLE)["plan_id"].to_pylist())
        return cards

    def priced(self, month: Month, user_id: str | None = None) -> dict[str, Totals] | None:
        """Return what users, or one of them, have in a month at the prices of its rate cards.

        None where the month has none.
        """
        cards = self.rate_cards(month)
        if cards is None:
            return None
        detail = Detail(self.items_by, cards.has_quantity)
        if detail.has_quantity:
            require_exact_quantities(month, self.inexact_quantities(month, user_id))
        last: dict[str, str | None] = {}
        if cards.has_plans:
            last = last_plans(self.accounts(user_id), book_of(month, self.plans(month, user_id)))
        with self.current(month, detail, user_id) as reader:
            return priced(cards, last, reader)

    def items(self, frozen: FrozenUsage) -> Stream:
        """Open a stream of what users have now of each item in a month that was frozen with rate cards."""
        detail = frozen.manifest.detail
        for name in (detail.items_by, "quantity" if detail.has_quantity else None):
            if name is not None and name not in self.usage_columns:
                raise UsageError(
                    f"{frozen.month} was billed by the column {name}, which {USAGE_TABLE} in "
                    f"{self.url.redacted} ({self.url.setting}) no longer has.",
                    remedy=f"Give {USAGE_TABLE} the column again: late usage of that month is priced by it.",
                )
        if detail.has_quantity:
            require_exact_quantities(frozen.month, self.inexact_quantities(frozen.month))
        return self.current(frozen.month, detail)

    def uniqueness(self, directory: Path) -> Uniqueness:
        """Return the proof that no row stands twice."""
        to_prove = columns_to_prove(self.usage_columns, self.unique_columns(), self._rules)
        return Uniqueness(
            directory,
            to_prove,
            lambda column, month: repeated_values(directory, self.values(column, month)),
            lambda column, before, month: values_in_both(
                directory, self.values(column, before), self.values(column, month)
            ),
        )

    def accounts(self, users: Collection[str] | str | None = None) -> pa.Table:
        """Read accounts with their plans: all, of some users, or of one."""
        found = self._columns_or_none(ACCOUNTS_TABLE)
        require_columns(self.url, ACCOUNTS_TABLE, found)
        accounts = self.texts(ACCOUNTS_TABLE, found, COLUMNS[ACCOUNTS_TABLE], users)
        plans = self._rows(PLANS_TABLE)
        if isinstance(users, str):
            # What is wrong with another plan is no matter of this user.
            plans = plans.filter(positions(plans["plan_id"], accounts["plan_id"]).is_valid())
        return build_accounts(accounts, plans, has_plans=bool(self._columns_or_none(PLANS_TABLE)))

    def last_plans(self, book: PlanBook) -> pa.Table:
        """Read the plan that each user was on last in the book's month: user_id, plan_id."""
        found = last_plans(self.accounts(), book)
        return pa.table({"user_id": texts(found), "plan_id": texts(found.values())})

    def account_plans(self, user_id: str | None = None) -> pa.Table:
        """Read the plan of each account, or of one: user_id, plan_id."""
        found = self._columns_or_none(ACCOUNTS_TABLE)
        return self.texts(ACCOUNTS_TABLE, found, ("user_id", "plan_id"), user_id)

    def plans(self, month: Month, user_id: str | None = None) -> pa.Table | None:
        """Read the plans and discounts of a month: of one user, or of all; None where there are none."""
        if not self._columns_or_none(PLANS_TABLE):
            for table in (SUBSCRIPTIONS_TABLE, DISCOUNTS_TABLE):
                # They would count for nothing.
                if len(self.texts(table, self.columns(table), COLUMNS[table], None)):
                    raise UsageError(
                        f"{table} has rows, but there is no {PLANS_TABLE}.",
                        remedy=f"Restore {PLANS_TABLE}, or empty {table} if nothing of it counts any more.",
                    )
            return None
        return build_plans(
            month,
            accounts=self.account_plans(user_id),
            plans=self._rows(PLANS_TABLE),
            subscriptions=self._rows(SUBSCRIPTIONS_TABLE, user_id),
            discounts=self._rows(DISCOUNTS_TABLE),
            user_id=user_id,
        )

    def _rows(self, table: str, users: str | None = None) -> pa.Table:
        """Read all that is needed of a table as text, of all users or of one; nothing where it is missing."""
        return self.texts(table, self._columns_or_none(table), COLUMNS[table], users)

    def _columns_or_none(self, table: str) -> Columns:
        """Describe a table with all columns that are needed; none where it is missing."""
        if table not in self._known:
            found = self._known[table] = self.columns(table)
            if found:
                require_columns(self.url, table, found)
        return self._known[table]

    def spend_limits(self, user_id: str | None = None) -> SpendLimits:
        """Read spend limits: all, or one user's."""
        found = self._columns_or_none(ACCOUNTS_TABLE)
        if LIMIT_COLUMN not in found:
            return SpendLimits({}, {})
        return build_limits(self.texts(ACCOUNTS_TABLE, found, LIMIT_COLUMNS, user_id))
