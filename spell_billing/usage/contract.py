"""What billing knows of a usage source: its calls and what they return. No database appears here."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import pyarrow as pa

from spell_billing.core.drafting import Account
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.core.plans import MonthPlan
from spell_billing.usage.frozen import (
    DayUsage,
    FrozenUsage,
    LateUsage,
    Manifest,
    Outside,
    Totals,
    UncomparedMonth,
)

ONE_USER_SECONDS = 5.0
"""A query about one user takes no longer: a page waits for it."""

ACCOUNTS_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("stripe_customer_id", pa.string()),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("email", pa.string()),
        pa.field("plan_id", pa.string()),
        pa.field("plan_name", pa.string()),
        pa.field("included_cents", pa.int64()),
        pa.field("collection", pa.string()),
        pa.field("net_days", pa.string()),
        pa.field("po_number", pa.string()),
        pa.field("footer", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class UserMonth:
    """One user's month as the platform has it now: the days with calls, oldest first."""

    days: tuple[DayUsage, ...]

    @property
    def calls(self) -> int:
        """Their calls."""
        return sum(day.calls for day in self.days)

    @property
    def cost_cents(self) -> Decimal:
        """Their exact cost."""
        return exact_sum(*(day.cost_cents for day in self.days))


@dataclass(frozen=True, slots=True)
class SpendLimits:
    """Limits by user, in minor units of the account's currency; `wrong` has what is none, as it stands."""

    cents: Mapping[str, int]
    wrong: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UserSpending:
    """One user's month as the platform has it now, with the account, plans and the spend limit, if any.

    `month` has days at their stored cost; or, priced as a whole by rate cards, none.
    """

    month: UserMonth | Totals
    account: Account | None = None
    limit_cents: int | None = None
    plan: MonthPlan | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """What the ledger knows of months that a freeze does not compare.

    The first month that was ever billed, or the one that is frozen; and the months billed too long ago to be
    compared, with the number of their billed rows.
    """

    first: Month
    billed: tuple[tuple[Month, int], ...] = ()


def outside_of(past: Past, calls: Mapping[str, int], *, future: int, before_first: int) -> Outside:
    """Return the counts, with the months that have another number of rows now (`calls`) than were billed."""
    counted = [UncomparedMonth(month, billed, calls.get(str(month), 0)) for month, billed in past.billed]
    return Outside(future, before_first, tuple(one for one in counted if one.billed != one.found))


@dataclass(frozen=True, slots=True)
class SourceRules:
    """How long a freeze waits for a standby; and columns of usage that settings name.

    `dedupe_column` has no value twice, beside `id`; by `items_by` usage is split into lines.
    """

    wait: timedelta = timedelta(0)
    dedupe_column: str | None = None
    items_by: str | None = None

    def in_lower_case(self) -> Self:
        """Return the same rules with the columns in lower case, for a source whose names have no case."""
        dedupe_column = self.dedupe_column and self.dedupe_column.lower()
        return replace(self, dedupe_column=dedupe_column, items_by=self.items_by and self.items_by.lower())


OnProgress = Callable[[int, int], None]
"""Takes how many rows are written so far, and how many there are in the month; from any thread."""

OnWait = Callable[[str], None]
"""Takes the reason in words why a freeze waits, when it begins to."""


class UsageSource(Protocol):
    """A source of usage rows and billing accounts. Reads only, and never waits for a person.

    What a freeze would take is also read without one: of all users, or of one. The latter takes
    `ONE_USER_SECONDS` at most, which needs an index on `(user_id, created_at)` in a large table.

    Raises:
        UsageError: from each method, when the tables are not what billing needs, or cannot be read.
        DatabaseUnreachableError: likewise, when the database does not answer.
    """

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
        """Write the rows of a month (UTC) as Parquet into an empty directory, from one consistent read.

        Args:
            month: The month.
            directory: The directory.
            late_for: The pinned (billed) versions of earlier months, all of them from the oldest that may
                still change: what they froze, late usage included, is compared with what the source has now.
            past: The months that are not compared; without it nothing is looked for there.
            on_progress: Called when the database has counted the rows, and then as they are written.
            on_wait: Called once when the source must be waited for.

        Raises:
            UsageError: a row stands twice, or a value is beyond exact arithmetic.
            SourceBehindError: a standby does not have the whole month, after the wait of the source's rules.
            IntegrityError: the rows written are not what the database itself counts and sums.
        """
        ...

    def supplement(
        self,
        frozen: FrozenUsage,
        directory: Path,
        *,
        recorded: Sequence[FrozenUsage],
        users: Collection[str],
    ) -> LateUsage | None:
        """Write what some users have in a pinned month now beyond what was recorded; None when nothing.

        Args:
            frozen: The month's version.
            directory: An empty directory.
            recorded: All pinned versions that may have recorded differences of the month, `frozen` too.
            users: Whose usage is compared.
        """
        ...

    def accounts(self, users: Collection[str] | None = None) -> pa.Table:
        """Read billing accounts with their plans, in `ACCOUNTS_SCHEMA`: of some users, or all of them.

        Blank customer ids are null, currencies are lower case (default `usd`).
        """
        ...

    def plans(self, month: Month, user_id: str | None = None) -> pa.Table | None:
        """Read the plans and discounts of a month, in `PLANS_SCHEMA`: of one user, or of all.

        None where the platform has no plans. What a freeze would keep now.
        """
        ...

    def so_far(self, month: Month) -> dict[str, Totals]:
        """Count and add up the month's calls by user, of the rows that a freeze would take now.

        At their stored cost, or at the prices of the month's rate cards: as they will be billed.
        """
        ...

    def user_month(self, user_id: str, month: Month) -> UserMonth:
        """Count one user's calls of a month, and add up their stored cost; no calls for an unknown id."""
        ...

    def account(self, user_id: str) -> Account | None:
        """Read one user's billing account and plan; None without an account."""
        ...

    def spend_limits(self) -> SpendLimits:
        """Read the spend limits of all accounts; none where the platform's table has no such column."""
        ...

    def spending(self, user_id: str, month: Month, *, with_limit: bool = True) -> UserSpending:
        """Read one user's month as `so_far` has it, account, plans and spend limit, from one consistent read.

        Raises:
            UsageError: also when the limit that is asked for is not a whole number of cents.
        """
        ...


@dataclass(frozen=True, slots=True)
class UserEvidence:
    """One user's days in an engine now; and whether the rows are those whose sums were frozen.

    None where the fingerprints cannot be compared: another engine, or another type of the amounts.
    """

    days: tuple[DayUsage, ...]
    is_as_frozen: bool | None


@runtime_checkable
class RowKeeper(Protocol):
    """A source that keeps the rows of the months it adds up."""

    def evidence(self, frozen: FrozenUsage, user_id: str) -> UserEvidence:
        """Ask for a user's rows of a summed month, however long it takes.

        Raises:
            UsageError: they cannot be read.
            DatabaseUnreachableError: the engine does not answer.
        """
        ...
