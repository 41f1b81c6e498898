"""What can go wrong: errors the double answers with on the wire, and misuse of the double itself."""

from typing import Any


class DoubleError(Exception):
    """The double is asked for something it cannot do: an unknown fault, an unreadable state file."""


class ApiError(Exception):
    """An answer with a status of 400 or above, in Stripe's shape.

    Attributes:
        status: The HTTP status.
        headers: Extra response headers.

    `kind` is Stripe's `type` of the error; `extra` are further fields of it, such as `decline_code`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        **extra: str,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self._error: dict[str, Any] = {"message": message, "type": kind, **extra}
        if code is not None:
            self._error["code"] = code
            self._error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        if param is not None:
            self._error["param"] = param

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the JSON body; `request_id` stands in its dashboard link as with Stripe."""
        link = f"https://dashboard.stripe.com/test/logs/{request_id}"
        return {"error": {**self._error, "request_log_url": link}}


def missing(kind: str, object_id: str, *, param: str | None = None) -> ApiError:
    """Say that an object does not exist: 404 for one in the path, 400 for one named by `param`."""
    return ApiError(
        f"No such {kind}: '{object_id}'",
        status=404 if param is None else 400,
        code="resource_missing",
        param=param or "id",
    )


def not_editable(message: str) -> ApiError:
    """Refuse a change that the invoice's status does not allow."""
    return ApiError(message, code="invoice_not_editable")


def unsupported(what: str) -> ApiError:
    """Refuse what Stripe can do and the double cannot, instead of ignoring it silently."""
    return ApiError(f"The Stripe double does not serve {what}.", code="double_unsupported", param=what)


def internal_error() -> ApiError:
    """Return Stripe's answer when Stripe itself fails."""
    return ApiError("An unknown error occurred.", status=500, kind="api_error")


def lock_timeout() -> ApiError:
    """Return the 429 for two requests on one object at the same time."""
    return ApiError(
        "This object cannot be accessed right now because another API request or Stripe process is"
        " currently accessing it. If you see this error intermittently, retry the request.",
        status=429,
        code="lock_timeout",
    )


def rate_limited(reason: str) -> ApiError:
    """Return the 429 of a limiter; `reason` goes into `Stripe-Rate-Limited-Reason`."""
    return ApiError(
        "Request rate limit exceeded.",
        status=429,
        code="rate_limit",
        headers=((b"stripe-rate-limited-reason", reason.encode()),),
    )


def key_in_use() -> ApiError:
    """Return the 409 for an idempotency key whose first request is still being served."""
    return ApiError(
        "There is currently another in-progress request using this idempotency key; try again later.",
        status=409,
        kind="idempotency_error",
        code="idempotency_key_in_use",
    )
