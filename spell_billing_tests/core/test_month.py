"""The billing period: its boundaries, its order, and when it may be billed."""

import calendar
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.errors import MonthError, MonthTooEarlyError
from spell_billing.core.month import Month, require_billable

MONTHS = st.builds(Month, st.integers(2, 9998), st.integers(1, 12))
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
OCTOBER = Month(2026, 10)


@given(month=MONTHS)
def test_a_month_reaches_from_its_first_instant_to_the_next_months_first(month: Month) -> None:
    days = calendar.monthrange(month.year, month.month)[1]

    assert month.start == datetime(month.year, month.month, 1, tzinfo=UTC)
    assert month.end - month.start == timedelta(days=days)
    assert month.end == month.next().start
    assert month.last_day == date(month.year, month.month, days).isoformat()
    assert datetime.fromtimestamp(month.first_second, UTC) == month.start
    assert month.last_second - month.first_second == days * 86_400 - 1


@given(month=MONTHS)
def test_every_text_of_a_month_reads_back_as_the_same_month(month: Month) -> None:
    assert Month.parse(str(month)) == month
    assert Month.from_partition_key(month.partition_key) == month
    assert month.label == f"{calendar.month_name[month.month]} {month.year}"


@given(one=MONTHS, other=MONTHS)
def test_months_order_by_time_as_objects_and_as_text(one: Month, other: Month) -> None:
    assert (one < other) == (one.start < other.start) == (str(one) < str(other))


@given(month=MONTHS, steps=st.integers(-30, 30))
def test_stepping_forth_and_back_ends_where_it_began(month: Month, steps: int) -> None:
    assert month.plus(steps).plus(-steps) == month
    assert month.next().previous() == month
    assert (month.plus(steps) > month) == (steps > 0)


@given(month=MONTHS.filter(lambda month: month.year > 1), offset=OFFSETS, fraction=st.floats(0, 1))
def test_every_instant_belongs_to_its_utc_month_in_any_time_zone(
    month: Month, offset: timezone, fraction: float
) -> None:
    last_microsecond = month.end - month.start - timedelta(microseconds=1)
    moment = (month.start + last_microsecond * fraction).astimezone(offset)

    assert Month.containing(moment) == month
    assert not month.is_closed(moment)
    assert month.previous().is_closed(moment)


def test_a_month_closes_at_midnight_utc_and_not_a_microsecond_earlier() -> None:
    midnight = datetime(2026, 11, 1, tzinfo=UTC)

    assert OCTOBER.is_closed(midnight)
    assert not OCTOBER.is_closed(midnight - timedelta(microseconds=1))
    # Already November in Tokyo, still October in UTC.
    assert not OCTOBER.is_closed(datetime(2026, 11, 1, 8, 59, tzinfo=timezone(timedelta(hours=9))))


def test_naive_datetimes_are_refused() -> None:
    naive = datetime(2026, 11, 1)  # noqa: DTZ001 - the point of the test

    with pytest.raises(ValueError, match="naive"):
        OCTOBER.is_closed(naive)
    with pytest.raises(ValueError, match="naive"):
        Month.containing(naive)
    with pytest.raises(ValueError, match="naive"):
        require_billable(OCTOBER, first=OCTOBER, now=naive)


@pytest.mark.parametrize(
    "text",
    [
        *("", "2026", "2026-13", "2026-00", "2026-1", "26-10", "2026-10-01", "0000-01", "9999-12"),
        *(" 2026-10", "2026-10\n", "2026/10", "-026-10", "October 2026", "٢٠٢٦-10"),
    ],
)
def test_anything_but_a_month_is_refused_with_the_form_to_use(text: str) -> None:
    with pytest.raises(MonthError, match="YYYY-MM") as caught:
        Month.parse(text)

    assert repr(text) in caught.value.message


@pytest.mark.parametrize("key", ["2026-10", "2026-10-02", "2026-10-31", "2026-13-01", "-01", ""])
def test_anything_but_the_first_day_of_a_month_is_no_partition(key: str) -> None:
    with pytest.raises(MonthError):
        Month.from_partition_key(key)


def test_a_month_before_the_first_or_not_yet_closed_is_refused_by_name() -> None:
    now, first = datetime(2026, 10, 15, tzinfo=UTC), Month(2026, 3)

    require_billable(Month(2026, 3), first=first, now=now)
    require_billable(Month(2026, 9), first=first, now=now)
    with pytest.raises(MonthError, match=r"2026-02 precedes .* 2026-03.*SPELL_BILLING_FIRST_MONTH"):
        require_billable(Month(2026, 2), first=first, now=now)
    with pytest.raises(MonthError, match=r"2026-10 is not closed: it ends on 2026-10-31"):
        require_billable(OCTOBER, first=first, now=now)
    with pytest.raises(MonthError, match="2027-01 is not closed"):
        require_billable(Month(2027, 1), first=first, now=now)


def test_a_month_within_its_grace_is_refused_until_late_writers_are_done() -> None:
    end, grace = datetime(2026, 11, 1, tzinfo=UTC), timedelta(minutes=90)

    with pytest.raises(MonthTooEarlyError, match=r"not billed before 2026-11-01 01:30 UTC") as refused:
        require_billable(OCTOBER, first=OCTOBER, now=end + timedelta(minutes=89), grace=grace)
    assert refused.value.transient
    require_billable(OCTOBER, first=OCTOBER, now=end + grace, grace=grace)
