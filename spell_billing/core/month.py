"""The billing period: one calendar month in UTC, and when it may be billed."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from spell_billing.core.errors import MonthError, MonthTooEarlyError

_MONTH = re.compile(r"(?P<year>[0-9]{4})-(?P<month>0[1-9]|1[0-2])")
_UNUSABLE_YEARS = frozenset({"0000", "0001", "9999"})
"""A datetime knows no year 0 to have the month before, and none after 9999 to end the last month with."""
_NONE = timedelta(0)
_NAMES = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
"""In English whatever the locale: `calendar.month_name` follows it."""


@dataclass(frozen=True, order=True, slots=True)
class Month:
    """One calendar month in UTC. Orders by time; `str()` gives `2026-10`."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> "Month":
        """Read `2026-10`; any other text is a MonthError."""
        match = _MONTH.fullmatch(text)
        if match is None or match["year"] in _UNUSABLE_YEARS:
            raise MonthError(f"{text!r} is not a month.", remedy="Write it as YYYY-MM, for example 2026-10.")
        return cls(int(match["year"]), int(match["month"]))

    @classmethod
    def from_partition_key(cls, key: str) -> "Month":
        """Read Dagster's partition key `2026-10-01`; any other day is a MonthError."""
        if not key.endswith("-01"):
            raise MonthError(
                f"{key!r} is not a monthly partition.", remedy="Use the first day of a month, as 2026-10-01."
            )
        return cls.parse(key[:-3])

    @classmethod
    def containing(cls, moment: datetime) -> "Month":
        """Return the month of an aware datetime, in UTC."""
        utc = _aware(moment)
        return cls(utc.year, utc.month)

    @property
    def label(self) -> str:
        """The month in words, as on an invoice: `October 2026`."""
        return _label(self.year, self.month)

    @property
    def partition_key(self) -> str:
        """Dagster's key of the month: its first day."""
        return f"{self}-01"

    @property
    def start(self) -> datetime:
        """The first instant of the month (inclusive)."""
        return _start(self.year, self.month)

    @property
    def end(self) -> datetime:
        """The first instant after the month (exclusive)."""
        return self.next().start

    @property
    def last_day(self) -> str:
        """The last calendar day, as `2026-10-31`."""
        return (self.end - timedelta(days=1)).date().isoformat()

    @property
    def first_second(self) -> int:
        """Unix time of the first second: the start of a Stripe line's period."""
        return int(self.start.timestamp())

    @property
    def last_second(self) -> int:
        """Unix time of the last second: the end of a Stripe line's period."""
        return int(self.end.timestamp()) - 1

    def next(self) -> "Month":
        """Return the following month."""
        return self.plus(1)

    def previous(self) -> "Month":
        """Return the preceding month."""
        return self.plus(-1)

    def plus(self, months: int) -> "Month":
        """Return the month that many months later (negative: earlier)."""
        year, month = divmod(self.year * 12 + self.month - 1 + months, 12)
        return Month(year, month + 1)

    def through(self, last: "Month") -> list["Month"]:
        """Return the months from this one to `last`, both included; none where `last` is earlier."""
        months = (last.year - self.year) * 12 + last.month - self.month
        return [self.plus(ahead) for ahead in range(months + 1)]

    def is_closed(self, now: datetime) -> bool:
        """Return whether the month is over at the aware datetime `now`."""
        return _aware(now) >= self.end

    def __str__(self) -> str:
        return _text(self.year, self.month)


@lru_cache
def _start(year: int, month: int) -> datetime:
    return datetime(year, month, 1, tzinfo=UTC)


@lru_cache
def _text(year: int, month: int) -> str:
    # Every line of an invoice has it.
    return f"{year:04d}-{month:02d}"


@lru_cache
def _label(year: int, month: int) -> str:
    return f"{_NAMES[month - 1]} {year}"


def require_billable(month: Month, *, first: Month, now: datetime, grace: timedelta = _NONE) -> None:
    """Refuse a month that is not closed or precedes the first billed month.

    The first month is `SPELL_BILLING_FIRST_MONTH`; the platform still writes rows of a month for a `grace`
    after its end (`BILLING_GRACE_MINUTES`).

    Raises:
        MonthError: naming the month and when, or from when on, it can be billed.
    """
    if month < first:
        raise MonthError(
            f"{month} precedes the first billed month, {first}.",
            remedy="Choose a later month, or set SPELL_BILLING_FIRST_MONTH to an earlier one.",
        )
    if not month.is_closed(now):
        raise MonthError(
            f"{month} is not closed: it ends on {month.last_day} at 24:00 UTC.",
            remedy="Only closed months are billed; try again after that.",
        )
    if not month.is_closed(now - grace):
        raise MonthTooEarlyError(
            f"{month} is not billed before {month.end + grace:%Y-%m-%d %H:%M} UTC, because rows of it may "
            "still be written until then (BILLING_GRACE_MINUTES).",
            remedy="Try again after that, or set BILLING_GRACE_MINUTES lower.",
        )


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a naive datetime has no place here: attach a time zone")
    return moment.astimezone(UTC)
