"""Pacing: never above the ceilings, slower when Stripe says so, and back again."""

import asyncio
from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.invoicing.pace import LIVE, SANDBOX, Limits, Pace

Run = Callable[..., Any]
SENT = list[tuple[float, str]]
TOLERANCE_SECONDS = 1e-6


def busiest_second(moments: list[float]) -> int:
    ordered = sorted(moments)
    return max(
        (sum(1 for each in ordered if start <= each < start + 1 - TOLERANCE_SECONDS) for start in ordered),
        default=0,
    )


def new_pace(limits: Limits) -> Pace:
    return Pace(limits, clock=asyncio.get_running_loop().time)


async def send_all(pace: Pace, arrivals: list[tuple[float, str]]) -> SENT:
    loop = asyncio.get_running_loop()
    sent: SENT = []

    async def one(after: float, endpoint: str) -> None:
        await asyncio.sleep(after)
        await pace.wait(endpoint)
        sent.append((loop.time(), endpoint))

    await asyncio.gather(*(one(after, endpoint) for after, endpoint in arrivals))
    return sent


@given(
    account=st.floats(0.5, 60),
    endpoint=st.floats(0.5, 60),
    arrivals=st.lists(st.tuples(st.floats(0, 3), st.sampled_from("abcdef")), min_size=1, max_size=150),
    signs=st.lists(
        st.tuples(st.floats(0, 5), st.sampled_from("abcdef"), st.sampled_from(["global-rate", ""])),
        max_size=4,
    ),
)
def test_no_second_ever_sees_more_than_a_ceiling(
    run: Run,
    account: float,
    endpoint: float,
    arrivals: list[tuple[float, str]],
    signs: list[tuple[float, str, str]],
) -> None:
    async def main() -> SENT:
        pace = new_pace(Limits(account, endpoint))

        async def slow_down(after: float, of: str, limited_by: str) -> None:
            await asyncio.sleep(after)
            pace.slow_down(of, limited_by)

        slower = [asyncio.create_task(slow_down(*sign)) for sign in signs]
        sent = await send_all(pace, arrivals)
        await asyncio.gather(*slower)
        return sent

    sent: SENT = run(main)

    assert Counter(name for _, name in sent) == Counter(name for _, name in arrivals)
    assert busiest_second([moment for moment, _ in sent]) <= ceil(account)
    for name in "abcdef":
        assert busiest_second([moment for moment, each in sent if each == name]) <= ceil(endpoint)


def test_bursts_on_several_endpoints_are_not_sent_late_and_all_at_once(run: Run) -> None:
    arrivals = [(0.0, name) for name in "abcdef" for _ in range(60)]
    sent: SENT = run(lambda: with_limits(LIVE, arrivals))

    assert busiest_second([moment for moment, _ in sent]) <= 100
    assert max(busiest_second([m for m, each in sent if each == name]) for name in "abcdef") <= 25


async def with_limits(limits: Limits, arrivals: list[tuple[float, str]]) -> SENT:
    return await send_all(new_pace(limits), arrivals)


@pytest.mark.parametrize(
    ("limits", "endpoints", "seconds"),
    [
        (LIVE, "a", 249 / 25),
        (LIVE, "abc", 249 / 75),
        (LIVE, "abcdefgh", 249 / 100),
        (SANDBOX, "a", 249 / 25),
        (SANDBOX, "abc", 249 / 25),
    ],
)
def test_what_the_ceilings_allow_is_used_up(run: Run, limits: Limits, endpoints: str, seconds: float) -> None:
    arrivals = [(0.0, endpoints[index % len(endpoints)]) for index in range(250)]
    sent: SENT = run(lambda: with_limits(limits, arrivals))

    assert sent[-1][0] - sent[0][0] <= seconds * 1.03


def test_runs_that_share_the_limits_stay_below_them_together_and_use_them_up(run: Run) -> None:
    async def main() -> SENT:
        paces = [new_pace(LIVE) for _ in range(4)]
        for pace in paces:
            pace.share(4)
        arrivals = [(0.0, name) for name in "abcde" for _ in range(50)]
        sent = await asyncio.gather(*(send_all(pace, arrivals) for pace in paces))
        return [each for of_one in sent for each in of_one]

    sent: SENT = run(main)

    assert busiest_second([moment for moment, _ in sent]) <= 100
    assert max(busiest_second([m for m, each in sent if each == name]) for name in "abcde") <= 25
    assert sent[-1][0] - sent[0][0] <= 1000 / 100 * 1.05


def test_a_share_changes_while_requests_go_out_and_keeps_what_a_429_cut(run: Run) -> None:
    async def main() -> list[float]:
        pace, rates = new_pace(LIVE), []
        await saturated(pace, "a", 4)
        for runs in (2, 1):
            pace.share(runs)
            rates += [pace.rate_per_second("a"), pace.rate_per_second("b")]
        pace.slow_down("a", "endpoint-rate")
        pace.share(2)
        return [*rates, pace.rate_per_second("a")]

    assert run(main) == [12.5, 12.5, 25.0, 25.0, pytest.approx(8.75, rel=0.1)]


def test_a_slow_endpoint_does_not_hold_up_the_others(run: Run) -> None:
    async def main() -> SENT:
        pace = new_pace(LIVE)
        await pace.wait("slow")
        pace.slow_down("slow", "endpoint-rate")
        return await send_all(pace, [(0.0, "slow")] * 10 + [(0.01, "fast")] * 20)

    sent: SENT = run(main)
    first = min(moment for moment, _ in sent)

    assert max(moment for moment, name in sent if name == "fast") - first < 1


def test_requests_to_an_endpoint_are_sent_in_the_order_they_came(run: Run) -> None:
    async def main() -> list[int]:
        pace, order = new_pace(SANDBOX), []

        async def one(number: int) -> None:
            await pace.wait("a")
            order.append(number)

        await asyncio.gather(*map(one, range(100)))
        return order

    assert run(main) == list(range(100))


def test_a_cancelled_request_does_not_block_the_next(run: Run) -> None:
    async def main() -> None:
        pace = new_pace(Limits(1.0, 1.0))
        await pace.wait("a")
        waiting = [asyncio.create_task(pace.wait("a")) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting[:2]:
            task.cancel()
        await asyncio.wait_for(waiting[2], 5)

    run(main)


def test_after_a_standstill_nothing_is_made_up_for_in_a_burst(run: Run) -> None:
    async def main() -> SENT:
        loop = asyncio.get_running_loop()
        stalled = loop.time() + 1

        async def sleep(seconds: float) -> None:
            # The process stands still for a minute once.
            nonlocal stalled
            late = loop.time() < stalled <= loop.time() + seconds
            await asyncio.sleep(seconds + 60 if late else seconds)

        pace = Pace(LIVE, clock=loop.time, sleep=sleep)
        return await send_all(pace, [(0.0, name) for name in "abcd" for _ in range(50)])

    sent: SENT = run(main)

    assert sent[-1][0] - sent[0][0] > 60
    assert busiest_second([moment for moment, _ in sent]) <= 100


async def saturated(pace: Pace, endpoint: str, seconds: float) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        await pace.wait(endpoint)


def test_a_429_of_an_endpoint_slows_that_endpoint_only(run: Run) -> None:
    async def main() -> tuple[float, float]:
        pace = new_pace(LIVE)
        await saturated(pace, "a", 4)
        pace.slow_down("a", "endpoint-rate")
        return pace.rate_per_second("a"), pace.rate_per_second("b")

    assert run(main) == (pytest.approx(17.5), 25.0)


@pytest.mark.parametrize("limited_by", ["global-rate", "global-concurrency"])
def test_a_429_of_the_account_slows_all_endpoints(run: Run, limited_by: str) -> None:
    async def main() -> tuple[float, float]:
        pace = new_pace(SANDBOX)
        await saturated(pace, "a", 4)
        pace.slow_down("a", limited_by)
        return pace.rate_per_second("a"), pace.rate_per_second("b")

    assert run(main) == (pytest.approx(17.5), pytest.approx(17.5))


def test_a_burst_of_429_counts_once_and_the_next_second_counts_again(run: Run) -> None:
    async def main() -> list[float]:
        pace, rates = new_pace(LIVE), []
        await saturated(pace, "a", 4)
        for pause in (0.0, 0.3, 0.6, 0.2):
            await asyncio.sleep(pause)
            pace.slow_down("a", "")
            rates.append(pace.rate_per_second("a"))
        return rates

    first, second, third, fourth = run(main)

    assert first == second == third
    assert fourth < first


def test_far_below_a_guessed_ceiling_the_rate_really_reached_is_cut(run: Run) -> None:
    async def main() -> float:
        pace = new_pace(Limits(5_000.0, 5_000.0))
        for _ in range(100):
            await pace.wait("a")
            await asyncio.sleep(0.05)
        pace.slow_down("a", "")
        return pace.rate_per_second("a")

    assert run(main) == pytest.approx(14, rel=0.1)


def test_the_pace_comes_back_to_its_ceiling_and_not_above(run: Run) -> None:
    async def main() -> list[float]:
        pace, rates = new_pace(LIVE), []
        await saturated(pace, "a", 4)
        pace.slow_down("a", "")
        for _ in range(30):
            await saturated(pace, "a", 1)
            rates.append(pace.rate_per_second("a"))
        return rates

    rates = run(main)

    assert rates == sorted(rates)
    assert rates[0] < 25
    assert rates[-1] == 25.0


@pytest.mark.parametrize(("ceiling", "slowest"), [(25.0, 1.0), (0.5, 0.5)])
def test_however_often_it_is_slowed_a_request_a_second_goes_out_but_never_more_than_the_ceiling(
    run: Run, ceiling: float, slowest: float
) -> None:
    async def main() -> float:
        pace = new_pace(Limits(ceiling, ceiling))
        for _ in range(50):
            pace.slow_down("a", "")
            pace.slow_down("a", "global-rate")
            await asyncio.sleep(1)
        return pace.rate_per_second("a")

    assert run(main) == slowest
