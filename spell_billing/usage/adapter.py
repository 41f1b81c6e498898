"""A usage source in an SQL database: its calls, made of what one snapshot of its tables answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from spell_billing.core.drafting import Account
from spell_billing.core.month import Month
from spell_billing.settings.lakes import UsageUrl
from spell_billing.usage.accounts import account_of, require_right
from spell_billing.usage.contract import (
    OnProgress,
    OnWait,
    Past,
    SourceRules,
    SpendLimits,
    UserMonth,
    UserSpending,
)
from spell_billing.usage.frozen import Detail, FrozenUsage, LateUsage, Manifest, Outside, Totals
from spell_billing.usage.late import checked, compare_late_usage
from spell_billing.usage.manifest import format_version_of
from spell_billing.usage.plan_book import book_of, write_plans
from spell_billing.usage.rate_cards import require_exact_quantities
from spell_billing.usage.row_writer import ROWS_FILE
from spell_billing.usage.usage_tables import UsageTables

T = TypeVar("T")


class SqlUsage(ABC):
    """Implements `UsageSource` by `UsageTables`."""

    def __init__(self, url: UsageUrl, rules: SourceRules) -> None:
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
            # Read where a card asks for it, and once: this month's cards, and those of each month before.
            last_plans = cache(lambda: tables.last_plans(book_of(month, plans)))
            rates = None
            if cards is not None:
                rates = cards.freeze(directory, last_plans() if cards.has_plans else None, rows.cost_scale)
            late = compare_late_usage(late_for, directory, tables, unique, plans_now=last_plans)
            before = next((one for one in late_for if one.month.next() == month), None)
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
                without_id=tables.without_id + unique.require(month, directory / ROWS_FILE),
                billed_before=unique.require_apart(month, directory / ROWS_FILE, before, late),
                outside=tables.outside(frozen_at, past) if past is not None else Outside(),
                foreign=tables.foreign(),
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
            return compare_late_usage(
                [frozen],
                directory,
                tables,
                unique,
                # As its bills are rated: who has no plan in what was frozen is on the account's.
                plans_now=tables.account_plans,
                recorded=recorded,
                users=users,
            )

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
        return self._read(lambda tables: tables.so_far(month))

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
