"""Wrong tries cost more and more time, for each address, in bounded memory."""

from datetime import UTC, datetime, timedelta

from spell_billing.web.secret import Throttle

START = datetime(2025, 4, 3, tzinfo=UTC)


def test_pauses_double_up_to_a_minute() -> None:
    throttle, now, pauses = Throttle(), START, []
    for _ in range(14):
        throttle.count_wrong("192.0.2.1", now)
        pause = throttle.pause_seconds("192.0.2.1", now)
        pauses.append(pause)
        now += timedelta(seconds=pause)
        assert throttle.pause_seconds("192.0.2.1", now) == 0

    assert pauses == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_addresses_do_not_pay_for_each_other() -> None:
    throttle = Throttle()
    for _ in range(8):
        throttle.count_wrong("192.0.2.1", START)

    assert throttle.pause_seconds("192.0.2.1", START) == 4
    assert throttle.pause_seconds("192.0.2.2", START) == 0


def test_the_addresses_of_one_ipv6_network_count_as_one() -> None:
    throttle = Throttle()
    for number in range(8):
        throttle.count_wrong(f"2001:db8:1:2::{number}", START)

    assert throttle.pause_seconds("2001:db8:1:2:3:4:5:6", START) == 4
    assert throttle.pause_seconds("2001:db8:1:3::1", START) == 0


def test_an_ipv4_address_counts_as_itself_when_it_comes_mapped() -> None:
    throttle = Throttle()
    for _ in range(8):
        throttle.count_wrong("::ffff:192.0.2.1", START)

    assert throttle.pause_seconds("192.0.2.1", START) == 4
    assert throttle.pause_seconds("::ffff:192.0.2.2", START) == 0


def test_a_right_secret_and_a_quarter_of_an_hour_make_forget() -> None:
    throttle = Throttle()
    for address in ("192.0.2.1", "192.0.2.2"):
        for _ in range(8):
            throttle.count_wrong(address, START)
    throttle.count_right("192.0.2.1")
    throttle.count_wrong("192.0.2.1", START)
    later = START + timedelta(minutes=16)
    throttle.count_wrong("192.0.2.2", later)

    assert throttle.pause_seconds("192.0.2.1", START) == 0
    assert throttle.pause_seconds("192.0.2.2", later) == 0


def test_memory_is_bounded_however_many_addresses_try() -> None:
    throttle = Throttle(most_addresses=100)
    for number in range(1_000):
        throttle.count_wrong(f"10.0.{number // 256}.{number % 256}", START)
    throttle.count_wrong("no address", START)

    assert len(throttle) == 100
