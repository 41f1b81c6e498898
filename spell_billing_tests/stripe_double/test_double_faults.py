"""Scripted faults: each happens where it is asked for, with and without its effect."""

import http.client
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from spell_billing.stripe_double import DoubleError, FaultKind, RequestRecord, StripeDouble

Call = Callable[..., Any]

CREATE = ("POST", "/v1/invoices", {"customer": "cus_1"})
LOST = (ConnectionError, http.client.HTTPException)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("error_500_before", (500, None)),
        ("error_500_after", (500, None)),
        ("error_500_unstored", (500, None)),
        ("rate_limited", (429, "rate_limit")),
        ("lock_timeout", (429, "lock_timeout")),
        ("conflict_409", (409, "idempotency_key_in_use")),
    ],
)
def test_an_answered_fault_has_its_status_and_strikes_once(
    double: StripeDouble, refused: Call, ok: Call, kind: str, answer: tuple[int, str | None]
) -> None:
    double.arm(kind)
    assert refused(*CREATE, key="k")[:2] == answer
    assert len(double.invoices()) == (kind == "error_500_after")
    ok(*CREATE)


@pytest.mark.parametrize(
    ("kind", "effect"), [("lost_before", False), ("lost_after", True), ("truncated", True)]
)
def test_a_lost_answer_breaks_the_connection(
    double: StripeDouble,
    call: Call,
    kind: str,
    effect: bool,  # noqa: FBT001 - a case, not an interface
) -> None:
    double.arm(kind)
    with pytest.raises(LOST):
        call(*CREATE, key="k")
    assert len(double.invoices()) == effect
    status, headers, _ = call(*CREATE, key="k")
    assert status == 200
    assert ("idempotent-replayed" in headers) is effect
    assert len(double.invoices()) == 1


def test_a_truncated_answer_announces_more_than_it_sends(double: StripeDouble, call: Call) -> None:
    double.arm("truncated")
    with pytest.raises(http.client.IncompleteRead) as cut:
        call(*CREATE)
    assert cut.value.partial.startswith(b'{"id":"in_')
    assert cut.value.expected is not None
    assert cut.value.expected > 0


@pytest.mark.parametrize(
    "reason", ["endpoint-rate", "global-rate", "endpoint-concurrency", "global-concurrency"]
)
def test_a_rate_limit_names_its_reason(double: StripeDouble, call: Call, reason: str) -> None:
    double.arm("rate_limited", reason=reason)
    status, headers, _ = call(*CREATE)
    assert (status, headers["stripe-rate-limited-reason"]) == (429, reason)
    assert double.summary()["rate_limited"] == 1


@pytest.mark.parametrize(("kind", "effect"), [("timeout", True), ("timeout_before", False)])
def test_a_timeout_answers_nothing(
    double: StripeDouble,
    call: Call,
    kind: str,
    effect: bool,  # noqa: FBT001 - a case, not an interface
) -> None:
    double.arm(kind)
    with pytest.raises(TimeoutError):
        call(*CREATE, key="k", timeout_seconds=0.1)
    assert len(double.invoices()) == effect
    assert ("idempotent-replayed" in call(*CREATE, key="k")[1]) is effect


def test_a_slow_answer_comes_after_the_effect(double: StripeDouble, call: Call) -> None:
    double.arm("slow", seconds=0.3)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(call, *CREATE)
        while not double.invoices():
            assert not slow.done()
        assert not slow.done()
        assert slow.result()[0] == 200


def test_waiting_requests_do_not_hold_up_the_end(call_at: Call) -> None:
    with ThreadPoolExecutor(1) as pool:
        arrived = Event()
        with StripeDouble().running() as double:
            double.add_customer("cus_1")
            double.arm("timeout", before_effect=lambda _record: arrived.set())
            waiting = pool.submit(call_at, double, *CREATE)
            assert arrived.wait(5)
        with pytest.raises(LOST):
            waiting.result(5)


def test_the_nth_write_since_arming_is_struck(double: StripeDouble, call: Call, draft: Call) -> None:
    draft()
    fault = double.arm("error_500_unstored", nth=3)
    statuses = []
    for _ in range(5):
        call("GET", "/v1/invoices")
        statuses.append(call(*CREATE)[0])
    assert statuses == [200, 200, 500, 200, 200]
    assert fault.fired == 1
    assert [each.fault for each in double.writes[-5:]] == [None, None, "error_500_unstored", None, None]


def test_an_operation_can_be_singled_out(double: StripeDouble, call: Call, draft: Call) -> None:
    double.arm("rate_limited", operation="invoices.finalize", nth=2)
    double.arm("rate_limited", operation="invoices.list")
    finalized = [call("POST", f"/v1/invoices/{draft(600)['id']}/finalize")[0] for _ in range(3)]
    assert finalized == [200, 429, 200]
    assert [call("GET", "/v1/invoices")[0] for _ in range(2)] == [429, 200]


def test_a_storm_is_the_same_for_the_same_seed(double: StripeDouble, call: Call) -> None:
    def storm(seed: int) -> list[int]:
        double.disarm()
        double.arm("error_500_unstored", probability=0.5, seed=seed)
        return [call(*CREATE)[0] for _ in range(20)]

    first = storm(1)
    assert storm(1) == first
    assert storm(2) != first
    assert {200, 500} == set(first)


def test_a_fault_can_strike_several_times(double: StripeDouble, call: Call) -> None:
    double.arm("error_500_unstored", times=2)
    assert [call(*CREATE)[0] for _ in range(3)] == [500, 500, 200]


def test_callbacks_run_around_the_effect(double: StripeDouble, call: Call) -> None:
    seen: list[tuple[str, int, str | None]] = []

    def note(moment: str) -> Callable[[RequestRecord], None]:
        return lambda record: seen.append((moment, len(double.invoices()), record.idempotency_key))

    double.arm("none", nth=2, before_effect=note("before"), after_effect=note("after"))
    for key in ("a", "b", "c"):
        assert call(*CREATE, key=key)[0] == 200
    assert seen == [("before", 1, "b"), ("after", 2, "b")]
    double.arm("lost_before", before_effect=note("before"), after_effect=note("after"))
    with pytest.raises(LOST):
        call(*CREATE, key="d")
    assert seen[2:] == [("before", 3, "d"), ("after", 3, "d")]


def test_a_client_that_is_gone_gets_no_answer_but_its_effect_stands(double: StripeDouble, call: Call) -> None:
    gone, served = Event(), Event()
    double.arm("none", before_effect=lambda _record: gone.wait(5), after_effect=lambda _record: served.set())
    with pytest.raises(TimeoutError):
        call(*CREATE, key="k", timeout_seconds=0.05)
    gone.set()
    assert served.wait(5)
    assert call(*CREATE, key="k")[1]["idempotent-replayed"] == "true"
    assert len(double.invoices()) == 1


def test_misspelt_faults_are_refused(double: StripeDouble) -> None:
    with pytest.raises(DoubleError, match="choose of"):
        double.arm("explode")
    with pytest.raises(DoubleError, match="choose of"):
        double.arm("slow", operation="invoices.burn")
    with pytest.raises(DoubleError, match="choose of"):
        double.arm(FaultKind.RATE_LIMITED, reason="mood")


def test_disarmed_faults_do_not_strike(double: StripeDouble, ok: Call) -> None:
    double.arm("error_500_before")
    double.disarm()
    ok(*CREATE)
