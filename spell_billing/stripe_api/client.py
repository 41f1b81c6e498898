"""The requests we send to Stripe, through the official SDK, one attempt each.

Raw requests over aiohttp: building the SDK's objects costs 0.8-1.1 ms of CPU per response, which at 100,000
invoices is minutes (measured with stripe-python 16.1).
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import aiohttp
import stripe
from pydantic import SecretStr

from spell_billing.stripe_api.problems import Kind, StripeProblem, sort_error

API_VERSION = "2026-10-28.endive"
"""The version that stripe-python 16.1 is written for; a test says so."""

TIMEOUT_SECONDS = 60.0

Invoice = Mapping[str, Any]
"""An invoice object as Stripe returns it."""

# The SDK would otherwise report the duration of our requests to Stripe with every further request.
stripe.enable_telemetry = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful response: the object, Stripe's request id, and whether an earlier one was replayed.

    `date` is when Stripe answered, by its clock, as HTTP writes it; empty where a proxy took it off.
    """

    object: Invoice
    request_id: str
    replayed: bool
    date: str = ""


def mode_of_key(key: SecretStr) -> Literal["test", "live"]:
    """Return the mode of the account's data that a key reads and writes."""
    return "live" if "_live_" in key.get_secret_value() else "test"


@dataclass
class StripeApi:
    """An open connection to one Stripe account. Use as an async context manager."""

    key: SecretStr
    base: str
    timeout_seconds: float = TIMEOUT_SECONDS

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=self.timeout_seconds)
        https = self.base.startswith("https")
        secure = ssl.create_default_context(cafile=stripe.ca_bundle_path) if https else False
        connector = aiohttp.TCPConnector(ssl=secure)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        self._client = stripe.StripeClient(
            self.key.get_secret_value(),
            stripe_version=API_VERSION,
            base_addresses={"api": self.base},
            max_network_retries=0,
            http_client=stripe.AIOHTTPClient(timeout=timeout, session=self._session),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(
        self, method: str, path: str, parameters: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> Answer:
        """Send one request, once; a write has its Idempotency-Key. Whatever goes wrong is a StripeProblem."""
        options = {} if key is None else {"idempotency_key": key}
        try:
            response = await self._client.raw_request_async(method, path, **(parameters or {}), **options)
        except Exception as error:
            problem = sort_error(error)
            if problem is None:
                raise
            raise problem from None
        data = response.data
        if not isinstance(data, dict):
            raise StripeProblem(Kind.TRANSIENT, "Stripe's answer is not an object")
        for each in data["data"] if data.get("object") == "list" else (data,):
            if isinstance(each, dict) and each.get("object") == "invoice":
                # Other API versions, and invoices that are not ours, leave these out or have null.
                each["metadata"] = each.get("metadata") or {}
                each["attempt_count"] = each.get("attempt_count") or 0
                each.setdefault("next_payment_attempt", None)
                each.setdefault("description", None)
        replayed = response.headers.get("Idempotent-Replayed", "").lower() == "true"
        return Answer(
            data, response.headers.get("Request-Id", ""), replayed, response.headers.get("Date", "")
        )
