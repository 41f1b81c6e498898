"""What a frozen version of a month is: its files, its manifest, and what it found."""

from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import PlainSerializer, PlainValidator

from spell_billing.core.errors import IntegrityError
from spell_billing.core.month import Month

if TYPE_CHECKING:
    from spell_billing.usage.bucket_files import BucketFiles

MonthText = Annotated[Month, PlainValidator(Month.parse), PlainSerializer(str)]
"""A month, which a manifest has as text."""
Amount = Annotated[Decimal, PlainSerializer("{:f}".format)]
"""An amount, which a manifest has as text, so that no reader makes a float of it."""

RESTORE_FILE = "Restore the file from a backup; do not freeze the month again if it was billed."

USER_USAGE_FILE = "user_usage.parquet"
USER_ITEMS_FILE = "user_items.parquet"
RATE_CARDS_FILE = "rate_cards.parquet"
MANIFEST_FILE = "manifest.json"

MAX_EXAMPLES = 20
"""Bad rows that are named; the others are counted."""


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
    cost_cents: Amount


@dataclass(frozen=True, slots=True)
class DayUsage:
    """One user's day (UTC): number of calls and exact cost in (possibly fractional) cents."""

    day: date
    calls: int
    cost_cents: Decimal


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


@dataclass(frozen=True, slots=True)
class BilledBefore:
    """Rows that the month before seems to have been billed for as well: how many, and ids of some."""

    count: int = 0
    ids: tuple[str, ...] = ()


MOST_COUNTED = 10_000
"""Rows outside are counted up to here: to count a platform's history would take longer than a freeze."""


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
        billed_before: Rows that may be copies of some that the month before was billed for.
        outside: Rows that no month of this freeze takes.
        foreign: Foreign tables of which another server may hide rows.
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
    billed_before: BilledBefore = BilledBefore()
    outside: Outside = Outside()
    foreign: tuple[str, ...] = ()
    plans: FrozenFile | None = None
    erased: tuple[ErasedUser, ...] = ()
    items_by: str | None = None
    rates: FrozenRates | None = None
    fingerprint: Amount | None = None

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
    keeper: "BucketFiles | None" = field(default=None, repr=False, compare=False)

    @property
    def paths(self) -> list[Path]:
        """The files of its rows."""
        return [self.path(file) for file in self.manifest.files]

    @property
    def uri(self) -> str:
        """Where it is kept."""
        return self.keeper.uri(self) if self.keeper else self.directory.absolute().as_uri()

    def path(self, file: FrozenFile) -> Path:
        """Return where a file of the manifest can be read on this machine.

        Raises:
            IntegrityError: it is missing.
        """
        if self.keeper:
            self.keeper.fetch(self, file)
        path = self.directory / file.name
        if not path.exists():
            raise IntegrityError(f"The frozen file {path} is missing.", remedy=RESTORE_FILE)
        return path


@dataclass(frozen=True, slots=True)
class Sums:
    """What an engine adds up: of a month, or of one user. Equal sums are of the same rows, but for chance."""

    totals: Totals
    fingerprint: Decimal
