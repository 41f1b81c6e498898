"""What the open month may bring, on the overview: beside the page, which it neither slows nor breaks."""

import threading
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import pytest

from spell_billing.core.errors import UsageError
from spell_billing.usage.contract import ACCOUNTS_SCHEMA
from spell_billing.usage.frozen import Totals
from spell_billing.web import forecast
from spell_billing.web.forecast import EVERY_SECONDS, Forecasts, Shown
from spell_billing_tests.proof.small_platform import APRIL, SmallPlatform
from spell_billing_tests.web.house import NOW, House
from spell_billing_tests.web_pages.reading_pages import Page
from spell_billing_tests.web_pages.world import OpenDoors, moment

ONE, TWO, THREE = "user-0001", "user-0002", "user-0003"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pages wait for a reading, however busy this machine is."""
    monkeypatch.setattr(forecast, "WAIT_SECONDS", 30.0)


def look(house: House, path: str = "/billing") -> Page:
    answer = house.admit("GET", path, accept="text/html")
    assert answer.status == 200, answer.text
    page = Page(answer.text)
    page.must_be_sound()
    return page


@pytest.mark.both_databases
def test_each_user_is_rated_with_the_plan_and_currencies_are_never_added(
    platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 1000}])
    platform.accounts(ONE, plan_id="pro")
    platform.accounts(TWO, currency="eur")
    platform.source.calls([(ONE, 123, moment(1)), (TWO, 123, moment(2)), (THREE, 123, moment(2))])

    with open_doors(platform) as house:
        page = look(house)

    # 57.5 of 720 hours have passed: 123 becomes 1540.17, and the plan covers 1000 of it for one of them.
    assert page.row("EUR") == ["EUR", "1", "€1.23", "€15.40"]
    assert page.row("USD") == ["USD", "2", "$1.23", "$20.80"]
    assert "Expected for April 2025" in page.text
    assert "As of 3 April 2025, 09:30 UTC" in page.text
    assert "as if it went on evenly to the end of the month" in page.text


def test_on_the_first_day_there_is_no_estimate_and_older_months_have_none(
    light_doors: House, light_platform: SmallPlatform
) -> None:
    light_platform.source.calls([(ONE, 123, moment(1))])
    light_doors.clock.now = APRIL.start + timedelta(hours=23)

    assert look(light_doors).row("USD") == ["USD", "1", "$1.23", "After the first day"]
    assert "Expected for" not in look(light_doors, "/billing?before=2025-04").text


def test_a_platform_that_does_not_answer_is_a_sentence_on_a_whole_page(
    light_doors: House, light_platform: SmallPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    light_platform.sql("DROP TABLE usage_counters")

    page = look(light_doors)

    assert "Usage could not be read: it is tried again in some minutes." in page.text
    assert "March 2025" in page.text
    assert "no forecast of 2025-04: The table usage_counters is missing" in caplog.text


class Source:
    """Gives a month of one user when it may; its monotonic clock moves when told."""

    def __init__(self) -> None:
        self.now, self.read, self.seconds = 0.0, 0, 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def so_far(self, _: object) -> dict[str, Totals]:
        assert self.gate.wait(30)
        self.read += 1
        self.now += self.seconds
        if self.error is not None:
            raise self.error
        return {ONE: Totals(1, Decimal(self.read))}

    def plans(self, _: object) -> None:
        return None

    def accounts(self, _: object) -> Any:
        return ACCOUNTS_SCHEMA.empty_table()


def cents_of(shown: Shown) -> list[int] | None:
    return None if shown.forecast is None else [each.so_far_cents for each in shown.forecast.expected]


def test_it_is_read_once_in_some_minutes_and_rarely_where_reading_takes_long(light_doors: House) -> None:
    source = Source()
    forecasts = Forecasts(light_doors.context, monotonic=lambda: source.now, source=cast("Any", source))

    for seconds, cents in ((0.0, 1), (EVERY_SECONDS - 1, 1), (1.0, 2)):
        source.now += seconds
        assert cents_of(forecasts.shown()) == [cents]
    source.seconds = 100.0
    for seconds, cents in ((EVERY_SECONDS, 3), (1_999.0, 3), (1.0, 4)):
        source.now += seconds
        assert cents_of(forecasts.shown()) == [cents]
    light_doors.clock.pass_by(days=30)
    assert cents_of(forecasts.shown()) == [5]


def test_a_page_does_not_wait_for_long_and_keeps_what_was_read(
    light_doors: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    forecasts = Forecasts(light_doors.context, monotonic=lambda: source.now, source=cast("Any", source))
    source.gate.clear()
    monkeypatch.setattr(forecast, "WAIT_SECONDS", 0.0)
    assert forecasts.shown() == Shown(APRIL, None, "Usage is being read: look again in a minute.")
    source.gate.set()
    monkeypatch.setattr(forecast, "WAIT_SECONDS", 30.0)
    assert cents_of(forecasts.shown()) == [1]
    source.error = UsageError("It is away.", remedy="Wait.")
    source.now += EVERY_SECONDS
    light_doors.clock.pass_by(minutes=5)

    found = forecasts.shown()

    assert found.forecast is not None
    assert (found.forecast.as_of, cents_of(found)) == (NOW, [1])
    assert str(found.note).startswith("Usage could not be read")
    assert (forecasts.shown(), source.read) == (found, 2)
