"""Rate and concurrency limits, per endpoint and for the account, as 429 answers."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from spell_billing.stripe_double.errors import rate_limited


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Requests per second and at once; None is unlimited. `live()` gives Stripe's own."""

    account_per_second: int | None = None
    endpoint_per_second: int | None = None
    account_at_once: int | None = None
    endpoint_at_once: int | None = None

    @classmethod
    def live(cls) -> "RateLimits":
        """Return the documented limits of live mode: https://docs.stripe.com/rate-limits."""
        return cls(account_per_second=100, endpoint_per_second=25)


class _Bucket:
    """Tokens that refill with real time, up to one second's worth."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._tokens = float(per_second)
        self._filled_at = time.monotonic()

    def has_token(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._per_second, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        return self._tokens >= 1

    def take(self) -> None:
        self._tokens -= 1


class Limiter:
    """Admits or refuses requests."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._account = _Bucket(limits.account_per_second) if limits.account_per_second else None
        self._endpoints: dict[str, _Bucket] = {}
        self._running: Counter[str] = Counter()

    @contextmanager
    def admitted(self, operation: str) -> Iterator[None]:
        """Count a request in while it is served.

        Raises:
            ApiError: 429, with the limiter's name.
        """
        self._check_at_once(operation)
        self._take_tokens(operation)
        self._running[operation] += 1
        try:
            yield
        finally:
            self._running[operation] -= 1

    def _check_at_once(self, operation: str) -> None:
        limits = self._limits
        if limits.endpoint_at_once is not None and self._running[operation] >= limits.endpoint_at_once:
            raise rate_limited("endpoint-concurrency")
        if limits.account_at_once is not None and self._running.total() >= limits.account_at_once:
            raise rate_limited("global-concurrency")

    def _take_tokens(self, operation: str) -> None:
        endpoint = self._endpoint(operation)
        if endpoint is not None and not endpoint.has_token():
            raise rate_limited("endpoint-rate")
        if self._account is not None:
            if not self._account.has_token():
                raise rate_limited("global-rate")
            self._account.take()
        if endpoint is not None:
            endpoint.take()

    def _endpoint(self, operation: str) -> _Bucket | None:
        if self._limits.endpoint_per_second is None:
            return None
        if operation not in self._endpoints:
            self._endpoints[operation] = _Bucket(self._limits.endpoint_per_second)
        return self._endpoints[operation]
