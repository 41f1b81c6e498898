"""Fixtures of the double's contract: a running double, plain HTTP to it, and the real SDK."""

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import stripe

from spell_billing.stripe_double import StripeDouble
from spell_billing_tests.stripe_double.shapes import require_shape

KEY = "sk_test_contract"


@pytest.fixture(scope="session")
def shared_double() -> Iterator[StripeDouble]:
    with StripeDouble().running() as double:
        yield double


@pytest.fixture
def double(shared_double: StripeDouble) -> StripeDouble:
    """Give a running double with an empty account and one customer, `cus_1`."""
    shared_double.reset()
    shared_double.add_customer("cus_1")
    return shared_double


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{name}[{key}]" if name else str(key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _flat(part, f"{name}[{index}]")
    else:
        yield name, str(value).lower() if isinstance(value, bool) else str(value)


@pytest.fixture
def call_at() -> Callable[..., tuple[int, dict[str, str], Any]]:
    """Give `call_at(double, method, path, params, key=..., headers=...)` -> status, headers, JSON.

    Each call has a connection of its own, closed at the end.
    """

    def call(
        double: StripeDouble,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 10,
    ) -> tuple[int, dict[str, str], Any]:
        encoded = urlencode(list(_flat(params or {}, "")))
        sent = {
            "Authorization": f"Bearer {KEY}",
            "Content-Type": "application/x-www-form-urlencoded",
            **({"Idempotency-Key": key} if key is not None else {}),
            **(headers or {}),
        }
        connection = http.client.HTTPConnection(urlsplit(double.base_url).netloc, timeout=timeout_seconds)
        try:
            if method == "POST":
                connection.request(method, path, encoded, sent)
            else:
                connection.request(method, f"{path}?{encoded}" if encoded else path, headers=sent)
            answer = connection.getresponse()
            body = answer.read()
            content = json.loads(body or b"null")
            if content is not None and not path.startswith("/_double/"):
                require_shape(content)
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, content
        finally:
            connection.close()

    return call


@pytest.fixture
def call(
    double: StripeDouble, call_at: Callable[..., tuple[int, dict[str, str], Any]]
) -> Callable[..., tuple[int, dict[str, str], Any]]:
    """Give `call_at` for the shared double."""

    def call(*args: Any, **options: Any) -> tuple[int, dict[str, str], Any]:
        return call_at(double, *args, **options)

    return call


@pytest.fixture
def ok(call: Callable[..., tuple[int, dict[str, str], Any]]) -> Callable[..., Any]:
    """Give `call` that expects 200 and returns the JSON alone."""

    def ok(*args: Any, **options: Any) -> Any:
        status, _, body = call(*args, **options)
        assert status == 200, body
        return body

    return ok


@pytest.fixture
def refused(call: Callable[..., tuple[int, dict[str, str], Any]]) -> Callable[..., Any]:
    """Give `call` that expects an error and returns its status, code and param."""

    def refused(*args: Any, **options: Any) -> tuple[int, str | None, str | None]:
        status, headers, body = call(*args, **options)
        assert status >= 400, body
        error = body["error"]
        assert error["message"]
        assert headers["request-id"].startswith("req_")
        return status, error.get("code"), error.get("param")

    return refused


@pytest.fixture
def draft(ok: Callable[..., Any]) -> Callable[..., Any]:
    """Give `draft(*amounts, customer=..., **parameters)`: a draft invoice with those lines."""

    def draft(*amounts_cents: int, customer: str = "cus_1", **params: Any) -> Any:
        invoice = ok("POST", "/v1/invoices", {"customer": customer, **params})
        if not amounts_cents:
            return invoice
        lines = [{"amount": each, "description": f"line of {each}"} for each in amounts_cents]
        return ok("POST", f"/v1/invoices/{invoice['id']}/add_lines", {"lines": lines})

    return draft


@pytest.fixture
def billed(ok: Callable[..., Any], draft: Callable[..., Any]) -> Callable[..., Any]:
    """Give `billed(...)`: as `draft`, finalized, and read again after its automatic collection."""

    def billed(*amounts_cents: int, auto_advance: bool = True, **params: Any) -> Any:
        invoice = draft(*amounts_cents, **params)
        ok("POST", f"/v1/invoices/{invoice['id']}/finalize", {"auto_advance": auto_advance})
        return ok("GET", f"/v1/invoices/{invoice['id']}")

    return billed


@pytest.fixture
def sdk(double: StripeDouble, monkeypatch: pytest.MonkeyPatch) -> Iterator[stripe.StripeClient]:
    """Give the real SDK, synchronous, one attempt a call."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    transport = stripe.RequestsClient()
    try:
        yield stripe.StripeClient(
            KEY, base_addresses={"api": double.base_url}, max_network_retries=0, http_client=transport
        )
    finally:
        transport.close()  # type: ignore[no-untyped-call] # the SDK's own gap
