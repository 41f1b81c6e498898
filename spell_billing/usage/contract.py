"""What billing knows of a usage source: its calls and what they return. No database appears here."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Protocol, Self, runtime_checkable

import pyarrow as pa
from pydantic import PlainValidator

from spell_billing.core.drafting import Account
from spell_billing.core.money import exact_sum
from spell_billing.core.month import Month
from spell_billing.core.plans import MonthPlan

MonthText = Annotated[Month, PlainValidator(Month.parse)]
"""A month, which a manifest has as text."""
USER_USAGE_FILE = "user_usage.parquet"
USER_ITEMS_FILE = "user_items.parquet"
RATE_CARDS_FILE = "rate_cards.parquet"
MANIFEST_FILE = "manifest.json"
MAX_EXAMPLES = 20
"""Bad rows that are named; the others are counted."""
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
PLANS_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("plan_id", pa.string()),
        pa.field("name", pa.string(), nullable=False),
        pa.field("starts_at", pa.timestamp("us", "UTC")),
        pa.field("ends_at", pa.timestamp("us", "UTC")),
        pa.field("included_cents", pa.int64()),
        pa.field("fee_cents", pa.int64()),
        pa.field("minimum_cents", pa.int64()),
        pa.field("percent", pa.string()),
        pa.field("amount_cents", pa.int64()),
        pa.field("currency", pa.string()),
    ]
)
"""`kind` is `plan` (`percent` is taken off usage) or `discount` (of a user, or of all users of a plan)."""
PLANS_FILE = "plans.parquet"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be billed: its id as text, and the problem in words."""

    id: str
    problem: str


@dataclass(frozen=True, slots=True)
class BadRows:
    """How many rows cannot be billed, and the first of them."""

    count: int
    examples: tuple[BadRow, ...]


NO_BAD_ROWS = BadRows(0, ())


def together(first: BadRows, second: BadRows) -> BadRows:
    """Return both as one."""
    return BadRows(first.count + second.count, (first.examples + second.examples)[:MAX_EXAMPLES])


@dataclass(frozen=True, slots=True)
class FrozenFile:
    """A Parquet file of a version: its name in the version's directory, content hash and row count."""

    name: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Totals:
    """A number of calls and the exact sum of their cost, in (possibly fractional) cents."""

    calls: int
    cost_cents: Decimal


@dataclass(frozen=True, slots=True)
class DayUsage:
    """One user's day (UTC): number of calls and exact cost in (possibly fractional) cents."""

    day: date
    calls: int
    cost_cents: Decimal


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
class LateMonth:
    """What an earlier, billed month has now beyond what was frozen; negative where rows went or shrank."""

    month: MonthText
    version: str
    users: int
    totals: Totals


@dataclass(frozen=True, slots=True)
class LateUsage:
    """The file with the differences per month and user, and their totals per month."""

    file: FrozenFile
    months: tuple[LateMonth, ...]


@dataclass(frozen=True, slots=True)
class UncomparedMonth:
    """A month billed too long ago to be compared: how many rows were billed, and how many there are now."""

    month: MonthText
    billed: int
    found: int


@dataclass(frozen=True, slots=True)
class Outside:
    """Rows of no month that is frozen or compared: they are not charged.

    Rows with a time after the freeze, and from before the first month that was ever billed (`MOST_COUNTED` at
    most); and the months billed too long ago to be compared whose number of rows is another now.
    """

    future: int = 0
    before_first: int = 0
    changed: tuple[UncomparedMonth, ...] = ()


MOST_COUNTED = 10_000
"""Rows outside are counted up to here: to count a platform's history would take longer than a freeze."""


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


@dataclass(frozen=True, slots=True)
class ErasedUser:
    """A user whose id was replaced in the files after they were frozen, and when; the id is not kept."""

    pseudonym: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Detail:
    """What rows are read with beside user, cost and time: a column as the item, and their quantity."""

    items_by: str | None = None
    has_quantity: bool = False


PLAIN = Detail()


@dataclass(frozen=True, slots=True)
class FrozenRates:
    """The rate cards that price a month, as they were at the freeze.

    `plans` has the plan of each user, where a card asks for it. The rows have a quantity where a card does.
    `cost_scale` are the decimal places that priced amounts may have.
    """

    cards: FrozenFile
    plans: FrozenFile | None
    has_quantity: bool
    cost_scale: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The evidence of one frozen month.

    Attributes:
        format_version: Of the manifest and the files.
        month: The frozen month.
        frozen_at: When the read began, by our clock (aware, UTC).
        backend: The kind of database or engine that served, as `postgresql`, `sqlite` or `duckdb`.
        cost_scale: Decimal places of `cost_cents` in the files (0: int64).
        frozen: Counted and summed from the rows that were written.
        control: Counted and summed by the database itself, in the same snapshot. Equal to `frozen`.
        files: The rows, in any order of files; or, of a summed month, what each user has in all.
        late: What earlier months had beyond their frozen versions; None when nothing was late.
        late_checked: The earlier months that were compared, as `2026-09/v0001`.
        bad_rows: Rows that are not in the files and must be fixed before the month can be billed.
        earlier_bad_rows: Rows of the compared months that cannot be billed any more; they stop no bill.
        without_id: Rows that have no id, where the database does not tell them apart.
        outside: Rows that no month of this freeze takes.
        plans: Plans, subscriptions and discounts of the month's users; None where the platform has no plans.
        erased: Users who were erased from the files since; the hashes are those of the files as they are now.
        items_by: The column of usage that the rows have as text, named `item`; None where they have none.
        rates: The rate cards of the month; None where it has none, and every row its stored cost.
        fingerprint: Of all rows of a summed month; None where the rows themselves were frozen.
    """

    format_version: int
    month: MonthText
    frozen_at: datetime
    backend: str
    cost_scale: int
    frozen: Totals
    control: Totals
    files: tuple[FrozenFile, ...]
    late: LateUsage | None
    late_checked: tuple[str, ...]
    bad_rows: BadRows
    earlier_bad_rows: BadRows = NO_BAD_ROWS
    without_id: int = 0
    outside: Outside = Outside()
    plans: FrozenFile | None = None
    erased: tuple[ErasedUser, ...] = ()
    items_by: str | None = None
    rates: FrozenRates | None = None
    fingerprint: Decimal | None = None

    @property
    def is_summed(self) -> bool:
        """Whether the engine added up the month: its files have the sums of users, and no rows."""
        return self.fingerprint is not None

    @property
    def detail(self) -> Detail:
        """What the rows were read with."""
        return Detail(self.items_by, self.rates is not None and self.rates.has_quantity)

    @property
    def charge_scale(self) -> int:
        """Decimal places of what is charged: of the stored costs, or of priced amounts."""
        return self.cost_scale if self.rates is None else self.rates.cost_scale


class Keeper(Protocol):
    """Where a version's files are kept when its directory only has copies of them.

    Raises:
        IntegrityError: from each method, when what is kept is missing or altered.
        StoreError: likewise, when it cannot be reached.
    """

    def uri(self, frozen: "FrozenUsage") -> str:
        """Return where the version is kept."""
        ...

    def fetch(self, frozen: "FrozenUsage", file: FrozenFile) -> None:
        """Copy a file into the version's directory, unless it is there."""
        ...

    def fetch_sums(self, frozen: "FrozenUsage", name: str) -> None:
        """Copy what was aggregated, and its hash, into the version's directory; remove what is not kept."""
        ...

    def keep_sums(self, frozen: "FrozenUsage", name: str) -> None:
        """Keep what was aggregated, and then its hash, as the version's directory has them."""
        ...


@dataclass(frozen=True, slots=True)
class FrozenUsage:
    """One version of a month in the store, named `v0001`; a supplement is `v0001/since_0001`.

    Supplements hold what the month had beyond the version, and beyond what later months recorded, when users
    who wait for their bill were drafted again: their differences alone, oldest first.
    """

    month: Month
    version: str
    directory: Path
    manifest: Manifest
    supplements: "tuple[FrozenUsage, ...]" = ()
    keeper: Keeper | None = field(default=None, repr=False, compare=False)

    @property
    def paths(self) -> list[Path]:
        """The files of its rows."""
        return [self.path(file) for file in self.manifest.files]

    @property
    def uri(self) -> str:
        """Where it is kept."""
        return self.keeper.uri(self) if self.keeper else self.directory.absolute().as_uri()

    def path(self, file: FrozenFile) -> Path:
        """Return where a file of the manifest can be read on this machine."""
        if self.keeper:
            self.keeper.fetch(self, file)
        return self.directory / file.name


@dataclass(frozen=True, slots=True)
class Sums:
    """What an engine adds up: of a month, or of one user. Equal sums are of the same rows, but for chance."""

    totals: Totals
    fingerprint: Decimal


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
