"""A usage source in an SQL database: what is the same in every database. The adapters have the rest."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from spell_billing.core.drafting import Account
from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.core.rate_cards import RATE_CARDS_TABLE
from spell_billing.settings.databases import NamedUrl
from spell_billing.usage.accounts import account_of, build_accounts
from spell_billing.usage.contract import (
    NO_BAD_ROWS,
    PLAIN,
    DayUsage,
    Detail,
    FrozenUsage,
    LateUsage,
    Manifest,
    OnProgress,
    OnWait,
    Outside,
    Past,
    SourceRules,
    SpendLimits,
    Totals,
    UserMonth,
    UserSpending,
)
from spell_billing.usage.duck import Stream
from spell_billing.usage.late import checked, compare_late_usage
from spell_billing.usage.limits import LIMIT_COLUMN, LIMIT_COLUMNS, build_limits, require_right
from spell_billing.usage.manifest import format_version_of
from spell_billing.usage.plans import book_of, build_plans, with_plans_at_end, write_plans
from spell_billing.usage.rate_cards import (
    CARD_COLUMNS,
    RateCards,
    read_rate_cards,
    require_exact_columns,
    require_exact_quantities,
    require_known_plans,
)
from spell_billing.usage.row_writer import ROWS_FILE, FrozenRows
from spell_billing.usage.so_far import ItemSoFar, priced
from spell_billing.usage.tables import (
    ACCOUNT_COLUMNS,
    ACCOUNT_OPTIONAL_COLUMNS,
    ACCOUNTS_TABLE,
    DISCOUNT_COLUMNS,
    DISCOUNT_OPTIONAL_COLUMNS,
    DISCOUNTS_TABLE,
    PLAN_COLUMNS,
    PLAN_OPTIONAL_COLUMNS,
    PLANS_TABLE,
    SUBSCRIPTION_COLUMNS,
    SUBSCRIPTIONS_TABLE,
    USAGE_COLUMNS,
    USAGE_TABLE,
    Columns,
    positions,
    require_columns,
)
from spell_billing.usage.unique import Uniqueness, columns_to_prove

T = TypeVar("T")


class UsageTables(ABC):
    """The platform's tables as one snapshot sees them.

    Attributes:
        scale: Decimal places of a cent that the source may have.
        bad_rows: What cannot be billed of the month that was frozen, or of no month.
        earlier_bad_rows: Likewise of the months that were compared.
    """

    scale = 0

    def __init__(self, url: NamedUrl, rules: SourceRules) -> None:
        self.url = url
        self._rules = rules
        self.bad_rows = NO_BAD_ROWS
        self.earlier_bad_rows = NO_BAD_ROWS

    @abstractmethod
    def columns(self, table: str) -> Columns:
        """Describe a table's columns; none of a table that is missing."""

    @abstractmethod
    def unique_columns(self) -> set[str]:
        """Return the columns of usage that the database itself guarantees to have no value twice."""

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
    def current_items(self, month: Month, detail: Detail) -> Stream:
        """Open a stream of what users have of each item in a month: `late_rated.ITEM_COLUMNS`."""

    @abstractmethod
    def items_so_far(self, month: Month, detail: Detail, user_id: str | None = None) -> Iterable[ItemSoFar]:
        """Count and add up what users, or one of them, have of each item in a month: billable rows."""

    @abstractmethod
    def inexact_quantities(self, month: Month, user_id: str | None = None) -> list[tuple[str, str]]:
        """Return the id and the quantity of rows of a month whose quantity is not exact, some of them."""

    @abstractmethod
    def current(self, month: Month) -> Stream:
        """Open a stream of what users have in a month."""

    @abstractmethod
    def bad_ids(self, month: Month) -> pa.ChunkedArray | None:
        """Return the ids, as text, of an earlier month's rows that cannot be billed; after `current`."""

    @abstractmethod
    def values(self, column: str, month: Month) -> Stream:
        """Open a stream of a column of the month's billable rows."""

    @abstractmethod
    def outside(self, now: datetime, past: Past) -> Outside:
        """Look for rows of months that are not compared."""

    @abstractmethod
    def sums(self, month: Month) -> dict[str, Totals]:
        """Add up the month's billable rows by user."""

    @abstractmethod
    def days(self, user_id: str, month: Month) -> list[DayUsage]:
        """Add up one user's billable rows of a month by day."""

    @cached_property
    def usage_columns(self) -> Columns:
        """The columns of usage, with all that are needed."""
        required = (*USAGE_COLUMNS, *filter(None, [self._rules.dedupe_column]))
        found = self.columns(USAGE_TABLE)
        require_columns(self.url, USAGE_TABLE, found, required)
        return found

    @cached_property
    def account_columns(self) -> Columns:
        """The columns of billing accounts; none where there is no such table."""
        return self.columns(ACCOUNTS_TABLE)

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
        found = self.columns(RATE_CARDS_TABLE)
        if not found:
            return None
        require_exact_columns(self.url, found)
        table = self.texts(RATE_CARDS_TABLE, found, CARD_COLUMNS, None)
        cards = read_rate_cards(table, month, self.usage_columns, items_by=self.items_by)
        plans = self.columns(PLANS_TABLE) if cards is not None and cards.has_plans else None
        if cards is not None and plans:
            require_columns(self.url, PLANS_TABLE, plans, PLAN_COLUMNS)
            known = self.texts(PLANS_TABLE, plans, ("plan_id",), None)["plan_id"]
            require_known_plans(cards, known.to_pylist())
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
            accounts, plans = self.accounts(user_id), self.plans(month, user_id)
            if plans is not None:
                accounts = with_plans_at_end(month, accounts, plans)
            columns = (accounts[name].to_pylist() for name in ("user_id", "plan_id"))
            last = dict(zip(*columns, strict=True))
        return priced(cards, last, self.items_so_far(month, detail, user_id))

    def items(self, frozen: FrozenUsage) -> Stream:
        """Open a stream of what users have now of each item in a month that was frozen with rate cards."""
        detail = frozen.manifest.detail
        for name in (detail.items_by, "quantity" if detail.has_quantity else None):
            if name is not None and name not in self.usage_columns:
                raise UsageError(
                    f"{frozen.month} was billed by the column {name}, which {USAGE_TABLE} in "
                    f"{self.url.redacted} ({self.url.setting}) has no more.",
                    remedy=f"Give {USAGE_TABLE} the column again: late usage of that month is priced by it.",
                )
        if detail.has_quantity:
            require_exact_quantities(frozen.month, self.inexact_quantities(frozen.month))
        return self.current_items(frozen.month, detail)

    def uniqueness(self, directory: Path) -> Uniqueness:
        """Return the proof that no row stands twice."""
        to_prove = columns_to_prove(self.usage_columns, self.unique_columns(), self._rules)
        return Uniqueness(directory, to_prove, self.values)

    def accounts(self, users: Collection[str] | str | None = None) -> pa.Table:
        """Read accounts with their plans: all, of some users, or of one."""
        found = self.account_columns
        require_columns(self.url, ACCOUNTS_TABLE, found, ACCOUNT_COLUMNS)
        accounts = self.texts(ACCOUNTS_TABLE, found, ACCOUNT_COLUMNS + ACCOUNT_OPTIONAL_COLUMNS, users)
        found = self.columns(PLANS_TABLE)
        if found:
            require_columns(self.url, PLANS_TABLE, found, PLAN_COLUMNS)
        plans = self.texts(PLANS_TABLE, found, PLAN_COLUMNS + PLAN_OPTIONAL_COLUMNS, None)
        if isinstance(users, str):
            # What is wrong with another plan is no matter of this user.
            plans = plans.filter(positions(plans["plan_id"], accounts["plan_id"]).is_valid())
        return build_accounts(accounts, plans, has_plans=bool(found))

    def plans(self, month: Month, user_id: str | None = None) -> pa.Table | None:
        """Read the plans and discounts of a month: of one user, or of all; None where there are none."""
        plans = self.columns(PLANS_TABLE)
        if not plans:
            return None
        accounts, subscriptions = self.columns(ACCOUNTS_TABLE), self.columns(SUBSCRIPTIONS_TABLE)
        discounts = self.columns(DISCOUNTS_TABLE)
        require_columns(self.url, PLANS_TABLE, plans, PLAN_COLUMNS)
        if subscriptions:
            require_columns(self.url, SUBSCRIPTIONS_TABLE, subscriptions, SUBSCRIPTION_COLUMNS)
        if discounts:
            require_columns(self.url, DISCOUNTS_TABLE, discounts, DISCOUNT_COLUMNS)
        names = DISCOUNT_COLUMNS + DISCOUNT_OPTIONAL_COLUMNS
        return build_plans(
            month,
            accounts=self.texts(ACCOUNTS_TABLE, accounts, ("user_id", "plan_id"), user_id),
            plans=self.texts(PLANS_TABLE, plans, PLAN_COLUMNS + PLAN_OPTIONAL_COLUMNS, None),
            subscriptions=self.texts(SUBSCRIPTIONS_TABLE, subscriptions, SUBSCRIPTION_COLUMNS, user_id),
            discounts=self.texts(DISCOUNTS_TABLE, discounts, names, None),
            user_id=user_id,
        )

    def spend_limits(self, user_id: str | None = None) -> SpendLimits:
        """Read spend limits: all, or one user's."""
        if LIMIT_COLUMN not in self.account_columns:
            return SpendLimits({}, {})
        return build_limits(self.texts(ACCOUNTS_TABLE, self.account_columns, LIMIT_COLUMNS, user_id))


class SqlUsage(ABC):
    """Implements `UsageSource` by `UsageTables`."""

    def __init__(self, url: NamedUrl, rules: SourceRules) -> None:
        self._url = url
        self._rules = rules

    @abstractmethod
    def _read(self, act: Callable[[UsageTables], T]) -> T:
        """Do something in one snapshot."""

    @abstractmethod
    def _read_of_user(self, user_id: str, act: Callable[[UsageTables], T]) -> T | None:
        """Do something in `ONE_USER_SECONDS` at most; None where no row can have the user's id."""

    def _read_whole(self, _: Month, act: Callable[[UsageTables], T], __: OnWait | None) -> T:
        """Do something in a snapshot that has all of a month."""
        return self._read(act)

    def freeze(
        self,
        month: Month,
        directory: Path,
        *,
        late_for: Sequence[FrozenUsage],
        past: Past | None = None,
        on_progress: OnProgress | None = None,
        on_wait: OnWait | None = None,
    ) -> Manifest:
        """Write the month's rows as Parquet; see `UsageSource.freeze`."""

        def freeze(tables: UsageTables) -> Manifest:
            frozen_at = datetime.now(UTC)
            unique = tables.uniqueness(directory)
            cards = tables.rate_cards(month)
            detail = Detail(tables.items_by, cards is not None and cards.has_quantity)
            if detail.has_quantity:
                require_exact_quantities(month, tables.inexact_quantities(month))
            rows = tables.freeze(month, directory / ROWS_FILE, on_progress, detail)
            plans = tables.plans(month)
            rates = None
            if cards is not None:
                accounts = tables.accounts() if cards.has_plans else None
                if accounts is not None and plans is not None:
                    accounts = with_plans_at_end(month, accounts, plans)
                rates = cards.freeze(directory, accounts, rows.cost_scale)
            late = compare_late_usage(
                late_for,
                directory,
                tables.current,
                tables.items,
                scale=tables.scale,
                bad_now=tables.bad_ids,
            )
            unique.require_changed(late)
            return Manifest(
                format_version=format_version_of(rates, rows.fingerprint),
                month=month,
                frozen_at=frozen_at,
                backend=self._url.backend,
                cost_scale=rows.cost_scale,
                frozen=rows.frozen,
                control=rows.control,
                files=(rows.file,),
                late=late,
                late_checked=checked(late_for),
                bad_rows=tables.bad_rows,
                earlier_bad_rows=tables.earlier_bad_rows,
                without_id=unique.require(month, directory / ROWS_FILE),
                outside=tables.outside(frozen_at, past) if past is not None else Outside(),
                plans=write_plans(plans, directory) if plans is not None and len(plans) else None,
                items_by=detail.items_by,
                rates=rates,
                fingerprint=rows.fingerprint,
            )

        return self._read_whole(month, freeze, on_wait)

    def supplement(
        self,
        frozen: FrozenUsage,
        directory: Path,
        *,
        recorded: Sequence[FrozenUsage],
        users: Collection[str],
    ) -> LateUsage | None:
        """Write what users have now beyond what was frozen; see `UsageSource.supplement`."""

        def compare(tables: UsageTables) -> LateUsage | None:
            unique = tables.uniqueness(directory)
            late = compare_late_usage(
                [frozen],
                directory,
                tables.current,
                tables.items,
                scale=tables.scale,
                recorded=recorded,
                users=users,
            )
            unique.require_changed(late)
            return late

        return self._read(compare)

    def accounts(self, users: Collection[str] | None = None) -> pa.Table:
        """Read billing accounts with their plans; see `UsageSource.accounts`."""
        return self._read(lambda tables: tables.accounts(users))

    def plans(self, month: Month, user_id: str | None = None) -> pa.Table | None:
        """Read the plans and discounts of a month; see `UsageSource.plans`."""
        if user_id is None:
            return self._read(lambda tables: tables.plans(month))
        return self._read_of_user(user_id, lambda tables: tables.plans(month, user_id))

    def so_far(self, month: Month) -> dict[str, Totals]:
        """Count and add up a month's calls by user; see `UsageSource.so_far`."""

        def read(tables: UsageTables) -> dict[str, Totals]:
            found = tables.priced(month)
            return tables.sums(month) if found is None else found

        return self._read(read)

    def user_month(self, user_id: str, month: Month) -> UserMonth:
        """Count and add up one user's calls of a month; see `UsageSource.user_month`."""
        return UserMonth(tuple(self._read_of_user(user_id, lambda tables: tables.days(user_id, month)) or ()))

    def account(self, user_id: str) -> Account | None:
        """Read one user's billing account; see `UsageSource.account`."""
        found = self._read_of_user(user_id, lambda tables: tables.accounts(user_id))
        return None if found is None else account_of(found)

    def spend_limits(self) -> SpendLimits:
        """Read the spend limits of all accounts; see `UsageSource.spend_limits`."""
        return self._read(lambda tables: tables.spend_limits())

    def spending(self, user_id: str, month: Month, *, with_limit: bool = True) -> UserSpending:
        """Read one user's calls, account and limit; see `UsageSource.spending`."""

        def read(tables: UsageTables) -> UserSpending:
            account = account_of(tables.accounts(user_id))
            limits = tables.spend_limits(user_id) if with_limit else SpendLimits({}, {})
            require_right(limits)
            found = tables.priced(month, user_id)
            return UserSpending(
                UserMonth(tuple(tables.days(user_id, month)))
                if found is None
                else found.get(user_id, Totals(0, Decimal(0))),
                account,
                limits.cents.get(user_id),
                book_of(month, tables.plans(month, user_id)).plan_of(user_id),
            )

        return self._read_of_user(user_id, read) or UserSpending(UserMonth(()))
