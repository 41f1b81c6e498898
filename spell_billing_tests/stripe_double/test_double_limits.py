"""Rate limits, locks on objects, latency."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from spell_billing.stripe_double import RateLimits, StripeDouble

Call = Callable[..., Any]

CREATE = ("POST", "/v1/invoices", {"customer": "cus_1"})


def reasons(answers: list[Any]) -> Counter[str]:
    return Counter(
        headers["stripe-rate-limited-reason"] if status == 429 else "served" for status, headers, _ in answers
    )


def test_each_endpoint_has_its_rate(call_at: Call) -> None:
    with StripeDouble(limits=RateLimits(endpoint_per_second=2)).running() as double:
        creates = [call_at(double, *CREATE) for _ in range(8)]
        lists = [call_at(double, "GET", "/v1/invoices") for _ in range(2)]
        assert reasons(lists) == {"served": 2}
        assert reasons(creates)["endpoint-rate"] >= 1
        refused = next(body for status, _, body in creates if status == 429)
        assert refused["error"]["code"] == "rate_limit"
        assert double.summary()["rate_limited"] >= 1


def test_the_account_has_its_rate_over_all_endpoints(call_at: Call) -> None:
    with StripeDouble(limits=RateLimits(account_per_second=2)).running() as double:
        answers = [call_at(double, "GET", f"/v1/{each}") for each in ["invoices", "events", "charges"] * 3]
        assert reasons(answers)["global-rate"] >= 1


def test_tokens_come_back_with_time(call_at: Call) -> None:
    with StripeDouble(limits=RateLimits(endpoint_per_second=20)).running() as double:
        refused = 0
        for allowed in (False, True):
            while (call_at(double, "GET", "/v1/invoices")[0] == 200) != allowed:
                refused += allowed
        assert double.summary()["rate_limited"] == refused + 1


def test_the_live_limits_are_the_documented_ones() -> None:
    assert RateLimits.live() == RateLimits(account_per_second=100, endpoint_per_second=25)


def test_two_changes_of_one_invoice_at_once_run_into_its_lock(
    double: StripeDouble, call: Call, draft: Call
) -> None:
    double.add_customer("cus_2")
    path = f"/v1/invoices/{draft(500)['id']}"
    other = f"/v1/invoices/{draft(500, customer='cus_2')['id']}"
    running = Event()
    double.arm("slow", seconds=0.5, before_effect=lambda _record: running.set())
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(call, "POST", f"{path}/finalize", key="first")
        assert running.wait(5)
        status, _, body = call("POST", f"{path}/void", key="second")
        assert (status, body["error"]["code"]) == (429, "lock_timeout")
        assert call("GET", path)[0] == 200
        assert call("POST", other, {"description": "x"})[0] == 200
        assert slow.result()[0] == 200
    assert call("POST", f"{path}/void", key="second")[0] == 200


@pytest.mark.parametrize("write", ["create", "add_lines", "finalize"])
def test_two_changes_of_one_customers_invoices_at_once_run_into_the_customers_lock(
    double: StripeDouble, call: Call, draft: Call, write: str
) -> None:
    # https://docs.stripe.com/rate-limits#object-lock-timeouts: "the same or related objects".
    double.add_customer("cus_2")
    path, sibling = f"/v1/invoices/{draft(500)['id']}", f"/v1/invoices/{draft(500)['id']}"
    second: dict[str, tuple[Any, ...]] = {
        "create": CREATE,
        "add_lines": ("POST", f"{sibling}/add_lines", {"lines": [{"amount": 1, "description": "x"}]}),
        "finalize": ("POST", f"{sibling}/finalize"),
    }
    running = Event()
    double.arm("slow", seconds=0.5, before_effect=lambda _record: running.set())
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(call, "POST", f"{path}/finalize", key="first")
        assert running.wait(5)
        status, _, body = call(*second[write], key="second")
        assert (status, body["error"]["code"]) == (429, "lock_timeout")
        assert call("GET", sibling)[0] == call("GET", "/v1/invoices", {"customer": "cus_1"})[0] == 200
        assert call("POST", "/v1/invoices", {"customer": "cus_2"})[0] == 200
        assert slow.result()[0] == 200
    assert call(*second[write], key="second")[0] == 200


def test_latency_is_added_to_every_request(call_at: Call) -> None:
    with StripeDouble(latency_seconds=0.3).running() as double, ThreadPoolExecutor(8) as pool:
        for number in range(8):
            double.add_customer(f"cus_{number}")
        started = time.monotonic()
        creates = [("POST", "/v1/invoices", {"customer": f"cus_{number}"}) for number in range(8)]
        answers = list(pool.map(lambda create: call_at(double, *create), creates))
        took_seconds = time.monotonic() - started
    assert [status for status, _, _ in answers] == [200] * 8
    assert 0.3 <= took_seconds < 8 * 0.3
