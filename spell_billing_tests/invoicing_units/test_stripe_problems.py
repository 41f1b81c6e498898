"""Stripe's errors as its SDK raises them, sorted by what a run does about them."""

import json
import ssl
from typing import Any

import aiohttp
import pytest
import stripe

from spell_billing.core.outcomes import Reason
from spell_billing.stripe_api.problems import Kind, StripeProblem, sort_error

REPLAYED = {"Idempotent-Replayed": "true"}


def raised(status: int, body: Any, headers: dict[str, str] | None = None) -> Exception:
    """Give what the SDK raises for a response."""
    requestor = stripe.StripeClient("sk_test_1")._requestor
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(stripe.StripeError) as caught:
        requestor._interpret_response(text, status, {"request-id": "req_1", **(headers or {})}, "V1")
    return caught.value


def sort(error: Exception) -> StripeProblem:
    problem = sort_error(error)
    assert problem is not None
    return problem


def error(kind: str = "invalid_request_error", message: str = "no", **more: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message, **more}}


SIMILAR = "No such customer: 'cus_1'; a similar object exists in test mode, but a live mode key was used."


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind"),
    [
        (500, error("api_error"), {}, Kind.TRANSIENT),
        (500, error("api_error"), REPLAYED, Kind.STUCK),
        (502, b"<html>Bad Gateway</html>", {}, Kind.TRANSIENT),
        (503, b"", {}, Kind.TRANSIENT),
        (200, b'{"id": "in_1", "obj', {}, Kind.TRANSIENT),
        (200, b'{"id": "in_1", "obj', REPLAYED, Kind.TRANSIENT),
        (200, b"\xff\xfe", {}, Kind.TRANSIENT),
        (409, error("idempotency_error", code="idempotency_key_in_use"), {}, Kind.TRANSIENT),
        (400, error("idempotency_error"), {}, Kind.KEY_CONFLICT),
        (429, error(code="rate_limit"), {}, Kind.LIMITED),
        (429, error(code="lock_timeout"), {}, Kind.LIMITED),
        (429, b"Too many requests", {}, Kind.LIMITED),
        (400, error(code="rate_limit"), {}, Kind.LIMITED),
        (401, error(message="Invalid API Key provided"), {}, Kind.ACCOUNT),
        (403, error(message="The key does not have the permission"), {}, Kind.ACCOUNT),
        (400, error(code="account_invalid"), {}, Kind.ACCOUNT),
        (400, error(code="livemode_mismatch"), {}, Kind.ACCOUNT),
        (400, error(message=SIMILAR, code="resource_missing", param="customer"), {}, Kind.ACCOUNT),
        (
            404,
            error(message="No such invoice: 'in_1'", code="resource_missing", param="id"),
            {},
            Kind.MISSING,
        ),
        (400, error(code="parameter_unknown"), {}, Kind.PERMANENT),
        (402, error("card_error", code="card_declined"), {}, Kind.PERMANENT),
    ],
)
def test_each_response_is_sorted_by_what_to_do(
    status: int, body: Any, headers: dict[str, str], kind: Kind
) -> None:
    assert sort(raised(status, body, headers)).kind is kind


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            error(message="No such customer: 'cus_1'", code="resource_missing", param="customer"),
            Reason.UNKNOWN_CUSTOMER,
        ),
        (error(message="This customer has been deleted"), Reason.CUSTOMER_DELETED),
        (
            error(message="You cannot combine currencies on a single customer. This customer has eur."),
            Reason.CURRENCY_CONFLICT,
        ),
        (error(code="customer_tax_location_invalid"), Reason.TAX_LOCATION),
        (error(code="amount_too_large"), Reason.AMOUNT_TOO_LARGE),
        (error(code="resource_missing", param="coupon"), Reason.REJECTED),
        (error(), Reason.REJECTED),
    ],
)
def test_what_a_person_must_change_has_its_reason(body: Any, reason: Reason) -> None:
    problem = sort(raised(400, body))

    assert (problem.kind, problem.reason) == (Kind.PERMANENT, reason)


@pytest.mark.parametrize(
    ("code", "header", "limited_by"),
    [
        ("rate_limit", "global-rate", "global-rate"),
        ("rate_limit", "endpoint-concurrency", "endpoint-concurrency"),
        ("rate_limit", "", ""),
        ("lock_timeout", "", "lock_timeout"),
    ],
)
def test_a_429_says_what_limits(code: str, header: str, limited_by: str) -> None:
    headers = {"Stripe-Rate-Limited-Reason": header} if header else {}

    assert sort(raised(429, error(code=code), headers)).limited_by == limited_by


def connection_error(cause: Exception) -> Exception:
    client = stripe.AIOHTTPClient(session=object())
    with pytest.raises(stripe.APIConnectionError) as caught:
        client._handle_request_error(cause)
    return caught.value


@pytest.mark.parametrize(
    "cause",
    [
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientOSError("connection reset"),
        aiohttp.ServerTimeoutError(),
        TimeoutError(),
        ssl.SSLError("handshake"),
        ConnectionResetError(),
        # Raised while the body is read: the SDK passes these on as they are.
        aiohttp.ClientPayloadError("Response payload is not completed"),
    ],
)
def test_a_lost_connection_leaves_the_outcome_unknown(cause: Exception) -> None:
    for each in (cause, connection_error(cause)):
        problem = sort(each)

        assert problem.kind is Kind.TRANSIENT
        assert type(cause).__name__ in problem.message
        assert problem.request_id is None


@pytest.mark.parametrize("mistake", [ValueError("ours"), KeyError("id"), TypeError("ours"), MemoryError()])
def test_a_mistake_of_ours_is_not_taken_for_stripes(mistake: Exception) -> None:
    assert sort_error(mistake) is None


def test_the_message_is_stripes_own_shortened_with_the_request_id_apart() -> None:
    problem = sort(raised(400, error(message="  Two\n lines " + "x" * 1_000)))

    assert problem.message.startswith("Two lines xxx")
    assert len(problem.message) == 300
    assert problem.request_id == "req_1"
    assert sort(raised(400, {"error": {"type": "invalid_request_error"}})).message


@pytest.mark.parametrize("key", ["sk_live_51secret", "rk_test_51secret", "sk_test_****cret"])
def test_a_key_in_stripes_words_is_not_repeated(key: str) -> None:
    problem = sort(raised(401, error(message=f"Invalid API Key provided: {key}.")))

    assert "cret" not in f"{problem} {problem.message}"


def test_an_address_where_nothing_listens_is_named() -> None:
    key = aiohttp.client_reqrep.ConnectionKey("127.0.0.1", 12111, False, True, None, None, None)  # noqa: FBT003
    failed = stripe.APIConnectionError("no connection")  # type: ignore[no-untyped-call]
    failed.__cause__ = aiohttp.ClientConnectorError(key, ConnectionRefusedError(111, "Connection refused"))

    problem = sort(failed)

    assert problem.message == "no answer from Stripe (127.0.0.1:12111: Connection refused)"
    assert problem.kind is Kind.TRANSIENT
