"""Stripe's errors, sorted in one place by what a run does about them."""

import asyncio
import re
from collections.abc import Mapping
from enum import StrEnum

import aiohttp
import stripe

from spell_billing.core.outcomes import Reason


class Kind(StrEnum):
    """What a problem means for the run."""

    PERMANENT = "permanent"
    """This user's bill cannot be made until a person changes something."""
    TRANSIENT = "transient"
    """The outcome may be unknown: send the same request with the same key again."""
    LIMITED = "limited"
    """Stripe asks for a slower pace: wait, then send the same request again."""
    STUCK = "stuck"
    """Stripe replays a stored failure for this key: only another key can go on."""
    KEY_CONFLICT = "key_conflict"
    """The key was used with another body."""
    MISSING = "missing"
    """The object in the path does not exist (any more)."""
    ACCOUNT = "account"
    """Nobody can be billed: the key, the account or its permissions."""


class StripeProblem(Exception):  # noqa: N818 - the field's word; not every problem is an error of ours
    """A request to Stripe that did not succeed.

    Attributes:
        kind: What to do about it.
        reason: The ledger's code where `kind` is permanent.
        message: Stripe's words, shortened, without the key.
        request_id: Stripe's request id, when an answer arrived.
        limited_by: Stripe's `Stripe-Rate-Limited-Reason`, or `lock_timeout`, where `kind` is limited.
        fresh: Where `kind` is stuck: the failure was stored a moment ago, by a try at this very request.
        decline_code: Why a card was declined, as the bank or else Stripe calls it; empty for another problem.
        forbidden: The key is good, but lacks the permission for this request.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        reason: Reason = Reason.REJECTED,
        request_id: str | None = None,
        limited_by: str = "",
        decline_code: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.reason = reason
        self.request_id = request_id
        self.limited_by = limited_by
        self.decline_code = decline_code
        self.fresh = False
        self.forbidden = False


_LONGEST_MESSAGE = 300
_API_KEY = re.compile(r"\b[rs]k_[A-Za-z0-9_*]+")
_ACCOUNT_CODES = frozenset(
    {
        "account_closed",
        "account_invalid",
        "api_key_expired",
        "livemode_mismatch",
        "platform_api_key_expired",
        "platform_account_required",
        "secret_key_required",
        "stripe_tax_inactive",
        "testmode_charges_only",
        "tls_version_unsupported",
    }
)
_REASONS = {
    "amount_too_large": Reason.AMOUNT_TOO_LARGE,
    "customer_tax_location_invalid": Reason.TAX_LOCATION,
    "invoice_no_customer_line_items": Reason.LINES_DIFFER,
}
_HTTP_CLIENT_ERROR, _HTTP_FORBIDDEN, _HTTP_SERVER_ERROR = 400, 403, 500
_KINDS = {
    401: Kind.ACCOUNT,
    403: Kind.ACCOUNT,
    404: Kind.MISSING,
    409: Kind.TRANSIENT,
    429: Kind.LIMITED,
}


def sort_error(error: Exception) -> StripeProblem | None:
    """Sort whatever a request raised; None for an error that is not Stripe's or the network's."""
    if isinstance(error, stripe.APIConnectionError | aiohttp.ClientError | asyncio.TimeoutError | OSError):
        return StripeProblem(Kind.TRANSIENT, f"no answer from Stripe ({_cause(error)})")
    if not isinstance(error, stripe.StripeError):
        return None
    headers = {str(name).lower(): str(value) for name, value in (error.headers or {}).items()}
    code = _code(error)
    problem = StripeProblem(
        _kind(error, code, headers),
        _short(error.user_message or str(error)),
        reason=_reason(error, code),
        request_id=headers.get("request-id"),
        limited_by=code if code == "lock_timeout" else headers.get("stripe-rate-limited-reason", ""),
        decline_code=_decline_code(error, code),
    )
    problem.forbidden = error.http_status == _HTTP_FORBIDDEN
    return problem


def _kind(error: stripe.StripeError, code: str, headers: Mapping[str, str]) -> Kind:
    status = error.http_status or 0
    kind = _fresh_kind(error, status, code)
    stored = status >= _HTTP_SERVER_ERROR or kind is Kind.PERMANENT
    # A stored answer is as old as its key: what it complains of may be fixed by now.
    return Kind.STUCK if stored and headers.get("idempotent-replayed") == "true" else kind


def _fresh_kind(error: stripe.StripeError, status: int, code: str) -> Kind:
    if status >= _HTTP_SERVER_ERROR or status < _HTTP_CLIENT_ERROR:
        return Kind.TRANSIENT
    if status in _KINDS:
        return _KINDS[status]
    if isinstance(error, stripe.RateLimitError):
        return Kind.LIMITED
    if isinstance(error, stripe.IdempotencyError):
        return Kind.KEY_CONFLICT
    return Kind.ACCOUNT if _whole_account(code, str(error)) else Kind.PERMANENT


def _code(error: stripe.StripeError) -> str:
    # The SDK passes the code on for some classes only: a rate limit's stands in the body alone.
    body = error.json_body if isinstance(error.json_body, dict) else {}
    details = body.get("error")
    found = error.code or (details.get("code") if isinstance(details, dict) else None)
    return str(found or "")


def _decline_code(error: stripe.StripeError, code: str) -> str:
    if not isinstance(error, stripe.CardError):
        return ""
    body = error.json_body if isinstance(error.json_body, dict) else {}
    details = body.get("error")
    found = details.get("decline_code") if isinstance(details, dict) else None
    return str(found or code)


def _whole_account(code: str, message: str) -> bool:
    # Stripe says so when a live key meets customers made in a sandbox, and the reverse: nobody can be billed.
    return code in _ACCOUNT_CODES or "a similar object exists in" in message


def _reason(error: stripe.StripeError, code: str) -> Reason:
    if code == "resource_missing" and getattr(error, "param", None) == "customer":
        return Reason.UNKNOWN_CUSTOMER
    text = str(error.user_message or "").lower()
    if "deleted" in text and "customer" in text:
        return Reason.CUSTOMER_DELETED
    if "combine currencies" in text:
        return Reason.CURRENCY_CONFLICT
    return _REASONS.get(code, Reason.REJECTED)


def _cause(error: Exception) -> str:
    cause = error.__cause__ or error
    return type(cause).__name__


def _short(message: str) -> str:
    first = _API_KEY.sub("(key)", " ".join(message.split()))
    return first if len(first) <= _LONGEST_MESSAGE else first[: _LONGEST_MESSAGE - 1] + "…"
