"""Rate limits, per endpoint and for the account, as 429 answers."""

import time
from dataclasses import dataclass

from spell_billing.stripe_double.errors import rate_limited


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Requests per second; None is unlimited. `live()` gives Stripe's own."""

    account_per_second: int | None = None
    endpoint_per_second: int | None = None

    @classmethod
    def live(cls) -> "RateLimits":
        """Return the documented limits of live mode: https://docs.stripe.com/rate-limits."""
        return cls(account_per_second=100, endpoint_per_second=25)


class _Bucket:
    """Tokens that refill with real time, up to one second's worth."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._filled_at = time.monotonic()
        self.tokens = float(per_second)

    def has_token(self) -> bool:
        now = time.monotonic()
        self.tokens = min(self._per_second, self.tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        return self.tokens >= 1


class Limiter:
    """Admits or refuses requests."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._buckets: dict[str, _Bucket] = {}

    def admit(self, operation: str) -> None:
        """Count a request.

        Raises:
            ApiError: 429, with the limiter's name.
        """
        buckets = []
        for reason, name, per_second in (
            ("endpoint-rate", operation, self._limits.endpoint_per_second),
            ("global-rate", "", self._limits.account_per_second),
        ):
            if per_second is not None:
                bucket = self._buckets.setdefault(name, _Bucket(per_second))
                if not bucket.has_token():
                    raise rate_limited(reason)
                buckets.append(bucket)
        for bucket in buckets:
            bucket.tokens -= 1
