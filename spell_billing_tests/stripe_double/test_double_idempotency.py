"""Idempotency keys: what is replayed, what is not, and for how long."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

from spell_billing.stripe_double import StripeDouble

Call = Callable[..., Any]

CREATE = ("POST", "/v1/invoices", {"customer": "cus_1"})


def test_a_repeated_key_replays_the_first_answer(double: StripeDouble, call: Call, ok: Call) -> None:
    status, headers, first = call(*CREATE, key="k")
    assert (status, headers["idempotency-key"]) == (200, "k")
    assert "idempotent-replayed" not in headers
    ok("POST", f"/v1/invoices/{first['id']}/add_lines", {"lines": [{"amount": 5}]})
    status, again, second = call(*CREATE, key="k")
    assert second == first
    assert (again["idempotent-replayed"], again["original-request"]) == ("true", headers["request-id"])
    assert again["request-id"] != headers["request-id"]
    assert len(double.invoices()) == 1
    assert double.requests[-1].replayed
    assert double.summary()["replays"] == 1


def test_a_key_with_another_request_is_refused(call: Call) -> None:
    call(*CREATE, key="k")
    for path, params in [
        ("/v1/invoices", {"customer": "cus_1", "description": "other"}),
        ("/v1/customers", {}),
    ]:
        status, _, body = call("POST", path, params, key="k")
        assert (status, body["error"]["type"]) == (400, "idempotency_error")


def test_the_order_of_parameters_does_not_matter(call: Call) -> None:
    first = call("POST", "/v1/invoices", {"customer": "cus_1", "description": "x"}, key="k")[2]
    assert call("POST", "/v1/invoices", {"description": "x", "customer": "cus_1"}, key="k")[2] == first


def test_refusals_of_execution_are_stored(call: Call, double: StripeDouble, draft: Call, ok: Call) -> None:
    missing = ("POST", "/v1/invoices", {"customer": "cus_late"})
    first = call(*missing, key="k")
    double.add_customer("cus_late")
    again = call(*missing, key="k")
    assert (first[0], again[0], again[2]) == (400, 400, first[2])
    assert again[1]["idempotent-replayed"] == "true"
    double.add_customer("cus_2", card="declined")
    path = f"/v1/invoices/{draft(700, customer='cus_2')['id']}"
    ok("POST", f"{path}/finalize")
    assert call("POST", f"{path}/pay", key="p")[0] == 402
    double.add_customer("cus_2", card="ok")
    assert call("POST", f"{path}/pay", key="p")[0] == 402
    assert call("POST", f"{path}/pay", key="p2")[0] == 200


def test_refused_parameters_do_not_use_up_the_key(call: Call) -> None:
    assert call("POST", "/v1/invoices", {"customer": "cus_1", "oops": "1"}, key="k")[0] == 400
    assert call(*CREATE, key="k")[0] == 200
    assert call(*CREATE, key="u", headers={"Authorization": "Bearer sk_live_x"})[0] == 401
    status, headers, _ = call(*CREATE, key="u")
    assert status == 200
    assert "idempotent-replayed" not in headers


def test_a_stored_500_replays(double: StripeDouble, call: Call) -> None:
    double.arm("error_500_before")
    assert [call(*CREATE, key="a")[0] for _ in range(3)] == [500] * 3
    assert double.invoices() == []
    double.arm("error_500_after")
    assert [call(*CREATE, key="b")[0] for _ in range(3)] == [500] * 3
    assert len(double.invoices()) == 1
    double.arm("error_500_unstored")
    assert [call(*CREATE, key="c")[0] for _ in range(2)] == [500, 200]


def test_keys_expire_after_24_hours_or_on_demand(double: StripeDouble, call: Call) -> None:
    first = call(*CREATE, key="k")[2]["id"]
    double.shift_clock(24 * 3600 - 60)
    assert call(*CREATE, key="k")[2]["id"] == first
    double.shift_clock(120)
    second = call(*CREATE, key="k")[2]["id"]
    assert second != first
    double.expire_all_keys()
    assert call(*CREATE, key="k")[2]["id"] not in {first, second}
    assert len(double.invoices()) == 3


def test_a_key_in_flight_is_a_conflict(double: StripeDouble, call: Call) -> None:
    executed = Event()
    double.arm("slow", seconds=1, before_effect=lambda _record: executed.set())
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(call, *CREATE, key="k")
        assert executed.wait(5)
        status, _, body = call(*CREATE, key="k")
        assert (status, body["error"]["code"]) == (409, "idempotency_key_in_use")
        double.expire_all_keys()
        assert call(*CREATE, key="k")[0] == 409
        assert slow.result()[0] == 200
    assert call(*CREATE, key="k")[1]["idempotent-replayed"] == "true"
    assert len(double.invoices()) == 1


def test_only_posts_have_keys(call: Call, draft: Call) -> None:
    path = f"/v1/invoices/{draft()['id']}"
    assert call("GET", path, key="k")[0] == 200
    assert call("DELETE", path, key="k")[0] == 200
    status, headers, _ = call("DELETE", path, key="k")
    assert status == 404
    assert "idempotency-key" not in headers


def test_keys_have_at_most_255_characters(call: Call) -> None:
    assert call(*CREATE, key="k" * 255)[0] == 200
    assert call(*CREATE, key="k" * 256)[0] == 400
