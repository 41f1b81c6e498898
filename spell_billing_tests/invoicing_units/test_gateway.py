"""The gateway: the same bytes until there is an answer, bounded patience, and a stop for all."""

import asyncio
import contextlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from spell_billing.core.errors import StripeAccountError
from spell_billing.invoicing.gateway import Gateway, Patience
from spell_billing.invoicing.pace import LOOPBACK, Pace
from spell_billing.stripe_api.problems import Kind, StripeProblem

Run = Callable[..., Any]
OK = {"id": "in_1"}
LOST = StripeProblem(Kind.TRANSIENT, "no answer from Stripe (TimeoutError)")
LIMITED = StripeProblem(Kind.LIMITED, "slow down", limited_by="endpoint-rate")
CREATE = "POST /v1/invoices"


def new_gateway(stripe: Any, patience: Patience | None = None, jitter: float = 1.0) -> Gateway:
    loop = asyncio.get_running_loop()
    pace = Pace(LOOPBACK, clock=loop.time)
    return Gateway(stripe, pace, patience or Patience(), clock=loop.time, jitter=lambda: jitter)


def pauses(stripe: Any) -> list[float]:
    moments = [moment for moment, *_ in stripe.requests]
    return [round(later - earlier, 3) for earlier, later in pairwise(moments)]


@pytest.mark.parametrize("problem", [LOST, LIMITED])
def test_an_unknown_outcome_is_asked_for_with_the_same_key_and_bytes(
    run: Run, scripted: Any, problem: StripeProblem
) -> None:
    stripe = scripted([problem, problem, OK])
    parameters = {"customer": "cus_1", "metadata": {"a": "b"}}

    async def main() -> None:
        gateway = new_gateway(stripe)
        answer = await gateway.send(CREATE, parameters, key="spell:2026-10:user-0001:g1:create")
        assert answer.object == OK
        assert {name: took.count for name, took in gateway.requests.items()} == {"POST /v1/invoices": 3}
        assert gateway.limited == (2 if problem is LIMITED else 0)

    run(main)

    assert len(stripe.requests) == 3
    assert {repr(request[1:]) for request in stripe.requests} == {
        repr(("post", "/v1/invoices", parameters, "spell:2026-10:user-0001:g1:create"))
    }


@pytest.mark.parametrize("kind", [Kind.PERMANENT, Kind.STUCK, Kind.KEY_CONFLICT, Kind.MISSING])
def test_what_no_repetition_can_change_is_raised_at_once(run: Run, scripted: Any, kind: Kind) -> None:
    problem = StripeProblem(kind, "no")
    stripe = scripted([problem, OK])

    async def main() -> None:
        with pytest.raises(StripeProblem) as caught:
            await new_gateway(stripe).send(CREATE)
        assert caught.value is problem

    run(main)

    assert len(stripe.requests) == 1


def test_a_refused_account_stops_everything_at_once_with_a_remedy(run: Run, scripted: Any) -> None:
    stripe = scripted([StripeProblem(Kind.ACCOUNT, "Expired API Key provided"), OK])

    async def main() -> None:
        with pytest.raises(StripeAccountError, match=r"Expired API Key.*Check STRIPE_API_KEY"):
            await new_gateway(stripe).send(CREATE)

    run(main)

    assert len(stripe.requests) == 1


@pytest.mark.parametrize(
    ("problem", "patience"),
    [(LOST, Patience(tries=4)), (LIMITED, Patience(limited_tries=4))],
)
def test_patience_with_one_request_ends(
    run: Run, scripted: Any, problem: StripeProblem, patience: Patience
) -> None:
    stripe = scripted([problem])

    async def main() -> None:
        with pytest.raises(StripeProblem) as caught:
            await new_gateway(stripe, patience).send(CREATE)
        assert caught.value is problem

    run(main)

    assert len(stripe.requests) == 4


def test_pauses_double_up_to_the_longest(run: Run, scripted: Any) -> None:
    stripe = scripted([LOST])
    patience = Patience(tries=9, first_pause_seconds=0.5, longest_pause_seconds=8, down_seconds=1e6)

    async def main() -> None:
        with pytest.raises(StripeProblem):
            await new_gateway(stripe, patience).send(CREATE)

    run(main)

    assert pauses(stripe) == [0.5, 1, 2, 4, 8, 8, 8, 8]


def test_jitter_shortens_a_pause_by_half_at_the_most(run: Run, scripted: Any) -> None:
    stripe = scripted([LOST, LOST, OK])

    async def main() -> None:
        await new_gateway(stripe, jitter=0.0).send(CREATE)

    run(main)

    assert pauses(stripe) == [0.25, 0.5]


def test_a_429_slows_the_endpoint_down(run: Run, scripted: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pace = Pace(LOOPBACK, clock=loop.time)
        gateway = Gateway(scripted([LIMITED, OK]), pace, Patience(), clock=loop.time)
        await gateway.send(CREATE)
        assert pace.rate_per_second("POST /v1/invoices") < 5_000 * 0.5
        assert pace.rate_per_second("GET /v1/invoices") == 5_000

    run(main)


def test_a_locked_object_is_tried_again_after_a_pause_and_slows_nobody_down(run: Run, scripted: Any) -> None:
    locked = StripeProblem(Kind.LIMITED, "This object cannot be accessed", limited_by="lock_timeout")
    stripe = scripted([locked, locked, OK])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pace = Pace(LOOPBACK, clock=loop.time)
        gateway = Gateway(stripe, pace, Patience(), clock=loop.time, jitter=lambda: 1.0)
        await gateway.send(CREATE, key="spell:2026-10:user-0001:g1:create")
        assert gateway.limited == 2
        assert pace.rate_per_second("POST /v1/invoices") == 5_000

    run(main)

    assert pauses(stripe) == [0.5, 1]


def test_a_stripe_that_is_down_stops_the_run_after_the_time_it_was_given(run: Run, scripted: Any) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        gateway, began = new_gateway(scripted([LOST])), loop.time()

        async def bill_one_after_another() -> None:
            while True:
                with contextlib.suppress(StripeProblem):
                    await gateway.send(CREATE)

        with pytest.raises(StripeAccountError, match=r"has not answered for 180 seconds.*status page"):
            await bill_one_after_another()
        return loop.time() - began

    assert 180 < run(main) <= 190


def test_one_answer_among_failures_means_that_stripe_is_there(run: Run, scripted: Any) -> None:
    missing = StripeProblem(Kind.MISSING, "no such invoice")

    async def main() -> None:
        for answer in (OK, missing, LIMITED):
            gateway = new_gateway(scripted([*([LOST] * 4), answer, OK] * 60))
            began = asyncio.get_running_loop().time()
            for _ in range(60):
                # Anything else that is raised fails the test.
                with contextlib.suppress(*([StripeProblem] if answer is missing else [])):
                    await gateway.send(CREATE)
            assert asyncio.get_running_loop().time() - began > 200

    run(main)


def test_a_first_failure_after_a_long_pause_is_not_taken_for_a_stripe_that_is_down(
    run: Run, scripted: Any
) -> None:
    async def main() -> None:
        gateway = new_gateway(scripted([OK, LOST, OK]))
        await gateway.send(CREATE)
        await asyncio.sleep(3600)
        await gateway.send(CREATE)

    run(main)


def test_a_list_is_read_to_its_last_page(run: Run, scripted: Any) -> None:
    stripe = scripted(
        [
            {"data": [{"id": "in_3"}, {"id": "in_2"}], "has_more": True},
            LOST,
            {"data": [{"id": "in_1"}], "has_more": False},
        ]
    )

    async def main() -> list[str]:
        pages = new_gateway(stripe).invoices(customer="cus_1")
        return [invoice["id"] async for page in pages for invoice in page]

    assert run(main) == ["in_3", "in_2", "in_1"]
    assert [request[3] for request in stripe.requests] == [
        {"limit": 100, "customer": "cus_1"},
        {"limit": 100, "customer": "cus_1", "starting_after": "in_2"},
        {"limit": 100, "customer": "cus_1", "starting_after": "in_2"},
    ]


def test_an_empty_list_has_no_page(run: Run, scripted: Any) -> None:
    async def main() -> list[Any]:
        pages = new_gateway(scripted([{"data": [], "has_more": False}])).invoices()
        return [page async for page in pages]

    assert run(main) == []
