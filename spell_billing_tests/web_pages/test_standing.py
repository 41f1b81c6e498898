"""`GET /v1/users/{user_id}/standing`: the present month so far against the user's spend limit."""

import logging
import threading
from typing import Any, cast

import pytest

from spell_billing.usage.contract import UserMonth, UserSpending
from spell_billing.web import standing
from spell_billing.web.standing import LONGEST_SECONDS, Standings
from spell_billing_tests.proof.small_platform import MARCH, SmallPlatform
from spell_billing_tests.web.house import NOW, House
from spell_billing_tests.web_pages.world import HOSTILE, OpenDoors, api, moment

ONE, TWO = "user-0001", "user-0002"


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every answer pass for a quick one, however busy this machine is."""
    monkeypatch.setattr(standing, "SLOW_SECONDS", 1_000.0)


def limit(platform: SmallPlatform, cents: object, user: str = ONE) -> None:
    change = f"UPDATE billing_accounts SET spend_limit_cents = {cents} WHERE user_id = '{user}'"
    platform.source.execute(change)


def add_limits(platform: SmallPlatform, kind: str = "bigint") -> None:
    platform.source.execute(f"ALTER TABLE billing_accounts ADD COLUMN spend_limit_cents {kind}")


@pytest.mark.both_databases
@pytest.mark.usefixtures("nothing_kept")
def test_it_is_what_the_invoice_would_charge_and_blocks_at_the_limit(
    platform: SmallPlatform, open_doors: OpenDoors
) -> None:
    platform.source.plans([{"plan_id": "pro", "name": "Pro", "included_cents": 1000}])
    platform.accounts(ONE, plan_id="pro", currency="EUR")
    add_limits(platform)
    platform.source.calls([(ONE, 1200, moment(1)), (ONE, 9_999, MARCH.start), (TWO, 7, moment(2))])

    with open_doors(platform) as house:
        assert house.admit("GET", api(ONE, "standing")).json == {
            "user_id": ONE,
            "month": "2025-04",
            "currency": "eur",
            "so_far_cents": 200,
            "so_far": "€2.00",
            "limit_cents": None,
            "limit": None,
            "percent_used": None,
            "blocked": False,
            "as_of": NOW.isoformat(),
        }
        limit(platform, 201)
        before = house.admit("GET", api(ONE, "standing")).json
        platform.source.calls([(ONE, 1, moment(2))])
        after = house.admit("GET", api(ONE, "standing")).json
        due_cents = house.admit("GET", api(ONE, "usage")).json["due_cents"]
        without_account = house.admit("GET", api(TWO, "standing")).json
        nobody = house.admit("GET", api("nobody", "standing"))

    assert (before["percent_used"], before["blocked"], before["limit"]) == (99, False, "€2.01")
    assert (after["percent_used"], after["blocked"], after["so_far_cents"]) == (100, True, due_cents)
    assert (without_account["so_far_cents"], without_account["limit_cents"]) == (7, None)
    assert (nobody.status, nobody.json["error"]["code"]) == (404, "unknown_user")


def test_a_known_user_without_calls_and_a_hostile_id_are_answered(light_doors: House) -> None:
    assert light_doors.admit("GET", api(ONE, "standing")).json["so_far_cents"] == 0
    for user in HOSTILE:
        assert light_doors.admit("GET", api(user, "standing")).status == 404, user


def test_a_limit_that_is_none_is_said_in_the_log_and_others_are_answered(
    light_doors: House, light_platform: SmallPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    add_limits(light_platform, "text")
    limit(light_platform, "'much'")

    with caplog.at_level(logging.WARNING):
        answer = light_doors.admit("GET", api(ONE, "standing"))

    assert (answer.status, answer.json["error"]["code"]) == (503, "not_available")
    assert answer.json["error"]["remedy"] == "The server's log says what to correct."
    assert "spend_limit_cents is 'much' for user user-0001, not a whole number of cents" in caplog.text
    assert light_doors.admit("GET", api(TWO, "standing")).status == 200


def test_a_platform_that_does_not_answer_is_said_without_its_name(
    light_doors: House, light_platform: SmallPlatform
) -> None:
    light_platform.sql("DROP TABLE usage_counters")

    answer = light_doors.admit("GET", api(ONE, "standing"))

    assert answer.status == 503
    assert "test.db" not in answer.text


class SlowSource:
    """Takes a time for each reading, by the monotonic clock that it moves; counts what it read."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.read = seconds, 0.0, 0
        self.gate: threading.Event | None = None

    def spending(self, *_: object) -> UserSpending:
        self.read += 1
        self.now += self.seconds
        assert self.gate is None or self.gate.wait(10)
        return UserSpending(UserMonth(()), None, self.read)


def standings_over(house: House, source: Any) -> Standings:
    standings = Standings(house.context, lambda: source.now)
    standings._source = source
    return standings


def test_what_is_slow_to_read_is_kept_for_twenty_times_as_long_with_the_time_of_its_reading(
    light_doors: House,
) -> None:
    source = SlowSource(0.5)
    standings = standings_over(light_doors, source)
    first = standings.of(ONE)

    light_doors.clock.pass_by(minutes=1)
    source.now += 9.9
    assert standings.of(ONE) is first
    assert first is not None
    assert first.as_of == NOW
    source.now += 0.2
    second = standings.of(ONE)

    assert second is not None
    assert (second.limit_cents, second.as_of > NOW) == (2, True)
    standings.of(TWO)
    source.seconds = 1_000.0
    source.now += LONGEST_SECONDS
    standings.of(ONE)
    source.now += LONGEST_SECONDS
    assert (standings.of(ONE), source.read) != (second, 4)
    assert source.read == 5


def test_what_is_quick_to_read_is_read_anew_each_time(light_doors: House) -> None:
    source = SlowSource(0.01)
    standings = standings_over(light_doors, source)

    assert [each.limit_cents for each in (standings.of(ONE), standings.of(ONE)) if each] == [1, 2]


def test_who_asks_meanwhile_waits_for_the_reading_under_way(light_doors: House) -> None:
    source, asked = SlowSource(0.01), threading.Semaphore(0)
    source.gate = threading.Event()

    def monotonic() -> float:
        asked.release()
        return source.now

    standings, found = Standings(light_doors.context, monotonic), []
    standings._source = cast("Any", source)
    askers = [threading.Thread(target=lambda: found.append(standings.of(ONE))) for _ in range(5)]
    for asker in askers:
        asker.start()
    for _ in askers:
        assert asked.acquire(timeout=10)
    source.gate.set()
    for asker in askers:
        asker.join()

    assert source.read == 1
    assert len({id(each) for each in found}) == 1
    assert len(found) == 5
