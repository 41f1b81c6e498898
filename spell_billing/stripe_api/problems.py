"""Stripe's errors, sorted in one place by what a run does about them."""

import asyncio
import re
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum

import aiohttp
import stripe

from spell_billing.core.outcomes import Reason
from spell_billing.stripe_api.permissions import missing_permission


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


@dataclass(eq=False)
class StripeProblem(Exception):  # noqa: N818 - the field's word; not every problem is an error of ours
    """A request to Stripe that did not succeed, with Stripe's words, shortened and without the key.

    `reason` is the ledger's code where the kind is permanent; `limited_by` Stripe's
    `Stripe-Rate-Limited-Reason`, or `lock_timeout`; `decline_code` why a card was declined, as the bank or
    else Stripe calls it. A `forbidden` request is one that a good key lacks a permission for, which is
    `missing` where Stripe names it. A stuck one
    is `fresh` where the failure was stored a moment ago, by a try at this very request.
    """

    kind: Kind
    message: str
    _: KW_ONLY
    reason: Reason = Reason.REJECTED
    request_id: str | None = None
    limited_by: str = ""
    decline_code: str = ""
    forbidden: bool = False
    missing: str | None = None
    fresh: bool = False

    def __str__(self) -> str:
        return self.message


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
_KINDS = {401: Kind.ACCOUNT, 403: Kind.ACCOUNT, 404: Kind.MISSING, 409: Kind.TRANSIENT, 429: Kind.LIMITED}


def sort_error(error: Exception) -> StripeProblem | None:
    """Sort whatever a request raised; None for an error that is not Stripe's or the network's."""
    if isinstance(error, stripe.APIConnectionError | aiohttp.ClientError | asyncio.TimeoutError | OSError):
        return StripeProblem(Kind.TRANSIENT, f"no answer from Stripe ({_cause(error.__cause__ or error)})")
    if not isinstance(error, stripe.StripeError):
        return None
    headers = {str(name).lower(): str(value) for name, value in (error.headers or {}).items()}
    body = error.json_body if isinstance(error.json_body, dict) else {}
    details = body["error"] if isinstance(body.get("error"), dict) else {}
    # The SDK passes the code on for some classes only: a rate limit's stands in the body alone.
    code = str(error.code or details.get("code") or "")
    is_card = isinstance(error, stripe.CardError)
    forbidden = error.http_status == _HTTP_FORBIDDEN
    return StripeProblem(
        _kind(error, code, replayed=headers.get("idempotent-replayed") == "true"),
        _short(error.user_message or str(error)),
        reason=_reason(error, code),
        request_id=headers.get("request-id"),
        limited_by=code if code == "lock_timeout" else headers.get("stripe-rate-limited-reason", ""),
        decline_code=str(details.get("decline_code") or code) if is_card else "",
        forbidden=forbidden,
        missing=missing_permission(str(error.user_message or error)) if forbidden else None,
    )


def _cause(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        # Stripe's address is said as well: a stand-in that is not running is the usual case.
        return f"{error.host}:{error.port}: {error.os_error.strerror or 'no connection'}"
    return type(error).__name__


def _kind(error: stripe.StripeError, code: str, *, replayed: bool) -> Kind:
    status = error.http_status or 0
    if status >= _HTTP_SERVER_ERROR or status < _HTTP_CLIENT_ERROR:
        kind = Kind.TRANSIENT
    elif status in _KINDS:
        kind = _KINDS[status]
    elif isinstance(error, stripe.RateLimitError):
        kind = Kind.LIMITED
    elif isinstance(error, stripe.IdempotencyError):
        kind = Kind.KEY_CONFLICT
    # Stripe says so when a live key meets customers made in a sandbox, and the reverse: nobody can be billed.
    elif code in _ACCOUNT_CODES or "a similar object exists in" in str(error):
        kind = Kind.ACCOUNT
    else:
        kind = Kind.PERMANENT
    # A stored answer is as old as its key: what it complains of may be fixed by now.
    stored = status >= _HTTP_SERVER_ERROR or kind is Kind.PERMANENT
    return Kind.STUCK if stored and replayed else kind


def _reason(error: stripe.StripeError, code: str) -> Reason:
    if code == "resource_missing" and getattr(error, "param", None) == "customer":
        return Reason.UNKNOWN_CUSTOMER
    text = str(error.user_message or "").lower()
    if "deleted" in text and "customer" in text:
        return Reason.CUSTOMER_DELETED
    if "combine currencies" in text:
        return Reason.CURRENCY_CONFLICT
    return _REASONS.get(code, Reason.REJECTED)


def _short(message: str) -> str:
    first = _API_KEY.sub("(key)", " ".join(message.split()))
    return first if len(first) <= _LONGEST_MESSAGE else first[: _LONGEST_MESSAGE - 1] + "…"
