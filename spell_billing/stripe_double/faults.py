"""Scripted faults: which request fails, and how."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from spell_billing.stripe_double.errors import (
    ApiError,
    DoubleError,
    internal_error,
    key_in_use,
    lock_timeout,
    rate_limited,
)
from spell_billing.stripe_double.operations import OPERATIONS, Operation

REASONS = ("endpoint-rate", "global-rate", "endpoint-concurrency", "global-concurrency", "resource-specific")


class FaultKind(StrEnum):
    """What goes wrong; without an effect unless it is said that the effect happens."""

    NONE = "none"  # nothing: the effect happens, only the callbacks run
    LOST_BEFORE = "lost_before"  # the connection closes without an answer
    LOST_AFTER = "lost_after"  # the effect happens; the connection closes without an answer
    ERROR_500_BEFORE = "error_500_before"  # 500, stored under the idempotency key
    ERROR_500_AFTER = "error_500_after"  # the effect happens; 500, stored under the idempotency key
    ERROR_500_UNSTORED = "error_500_unstored"  # 500, not stored
    RATE_LIMITED = "rate_limited"  # 429 with a reason
    LOCK_TIMEOUT = "lock_timeout"  # 429 lock_timeout
    CONFLICT_409 = "conflict_409"  # 409 as for a key in use
    TRUNCATED = "truncated"  # the effect happens; half of the body arrives, then the connection closes
    SLOW = "slow"  # the effect happens; answered after `seconds`, until then key and object are held
    TIMEOUT = "timeout"  # the effect happens; no answer ever comes
    TIMEOUT_BEFORE = "timeout_before"  # no answer ever comes


WITHOUT_EFFECT = frozenset({FaultKind.LOST_BEFORE, FaultKind.TIMEOUT_BEFORE})
HANGING = frozenset({FaultKind.TIMEOUT, FaultKind.TIMEOUT_BEFORE})
UNANSWERED = HANGING | {FaultKind.LOST_BEFORE, FaultKind.LOST_AFTER}
_REFUSALS: dict[str, Callable[[], ApiError]] = {
    FaultKind.LOCK_TIMEOUT: lock_timeout,
    FaultKind.CONFLICT_409: key_in_use,
    FaultKind.ERROR_500_UNSTORED: internal_error,
}


@dataclass(slots=True)
class RequestRecord:
    """One line of the double's request log; `status` is None until, and unless, it is answered."""

    method: str
    path: str
    request_id: str
    idempotency_key: str | None = None
    operation: str | None = None
    status: int | None = None
    replayed: bool = False
    fault: str | None = None


Callback = Callable[[RequestRecord], object]


@dataclass(slots=True)
class Fault:
    """A fault that waits for its request.

    Attributes:
        kind: What goes wrong.
        operation: Only requests of this operation are candidates; without it, every write is.
        nth: Strikes at the n-th candidate since arming (from 1).
        probability: Strikes each candidate with this probability, in the order that `seed` fixes.
        times: How often it strikes at most; by default without limit where there is a probability, else once.
        seconds: How long a slow answer takes.
        reason: The limiter that a 429 names.
        before_effect: Called in the server's thread before the effect; `after_effect` before the answer.
        fired: How often it struck.
    """

    kind: FaultKind | str
    operation: str | None = None
    nth: int | None = None
    probability: float | None = None
    seed: int = 0
    times: int | None = None
    seconds: float = 0.0
    reason: str = "endpoint-rate"
    before_effect: Callback | None = None
    after_effect: Callback | None = None
    fired: int = field(default=0, init=False)
    _seen: int = field(default=0, init=False)
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Not for secrets: a storm must be the same in every run.
        self._random = random.Random(self.seed)  # noqa: S311 - see the comment above
        if self.times is None and self.probability is None:
            self.times = 1
        for value, what, known in (
            (self.kind, "fault", FaultKind),
            (self.operation, "operation of the double", sorted(OPERATIONS)),
            (self.reason, "limiter", REASONS),
        ):
            if value is not None and value not in list(known):
                raise DoubleError(f"{value!r} is no {what}: choose of {', '.join(known)}.")

    def strikes(self, operation: Operation) -> bool:
        """Count a request, and tell whether the fault is its fate."""
        candidate = operation.writes if self.operation is None else operation.name == self.operation
        if not candidate:
            return False
        self._seen += 1
        is_over = self.times is not None and self.fired >= self.times
        if is_over or self.nth not in {None, self._seen}:
            return False
        # Drawn for every candidate, so that the same requests are struck whatever else is armed.
        return self.probability is None or self._random.random() < self.probability

    def refusal(self) -> ApiError | None:
        """Return the error that is answered instead of serving the request, if that is the fault."""
        if self.kind == FaultKind.RATE_LIMITED:
            return rate_limited(self.reason)
        make = _REFUSALS.get(str(self.kind))
        return None if make is None else make()
