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
    """What goes wrong."""

    NONE = "none"
    """Nothing: only the callbacks run."""
    LOST_BEFORE = "lost_before"
    """No effect; the connection closes without an answer."""
    LOST_AFTER = "lost_after"
    """The effect happens; the connection closes without an answer."""
    ERROR_500_BEFORE = "error_500_before"
    """No effect; 500, stored under the idempotency key."""
    ERROR_500_AFTER = "error_500_after"
    """The effect happens; 500, stored under the idempotency key."""
    ERROR_500_UNSTORED = "error_500_unstored"
    """No effect; 500, not stored."""
    RATE_LIMITED = "rate_limited"
    """No effect; 429 with a reason."""
    LOCK_TIMEOUT = "lock_timeout"
    """No effect; 429 lock_timeout."""
    CONFLICT_409 = "conflict_409"
    """No effect; 409 as for a key in use."""
    TRUNCATED = "truncated"
    """The effect happens; half of the body arrives, then the connection closes."""
    SLOW = "slow"
    """The effect happens; the answer comes after `seconds`, until then the key and the object are held."""
    TIMEOUT = "timeout"
    """The effect happens; no answer ever comes."""
    TIMEOUT_BEFORE = "timeout_before"
    """No effect; no answer ever comes."""


WITHOUT_EFFECT = frozenset({FaultKind.LOST_BEFORE, FaultKind.TIMEOUT_BEFORE})
HANGING = frozenset({FaultKind.TIMEOUT, FaultKind.TIMEOUT_BEFORE})
UNANSWERED = HANGING | {FaultKind.LOST_BEFORE, FaultKind.LOST_AFTER}


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
        times: How often it strikes at most; None is without limit.
        seconds: How long a slow answer takes.
        reason: The limiter that a 429 names.
        before_effect: Called in the server's thread before the effect.
        after_effect: Called in the server's thread after the effect, before the answer.
        fired: How often it struck.
    """

    kind: FaultKind
    operation: str | None = None
    nth: int | None = None
    probability: float | None = None
    seed: int = 0
    times: int | None = None
    seconds: float = 0.0
    reason: str = "endpoint-rate"
    before_effect: Callback | None = None
    after_effect: Callback | None = None
    fired: int = 0
    _seen: int = 0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Not for secrets: a storm must be the same in every run.
        self._random = random.Random(self.seed)  # noqa: S311 - see the comment above
        if self.operation is not None and self.operation not in OPERATIONS:
            known = ", ".join(sorted(OPERATIONS))
            raise DoubleError(f"{self.operation!r} is no operation of the double: choose of {known}.")
        if self.reason not in REASONS:
            raise DoubleError(f"{self.reason!r} is no limiter: choose of {', '.join(REASONS)}.")

    def strikes(self, operation: Operation) -> bool:
        """Count a request, and tell whether the fault is its fate."""
        candidate = operation.writes if self.operation is None else operation.name == self.operation
        if not candidate:
            return False
        self._seen += 1
        if self.times is not None and self.fired >= self.times:
            return False
        if self.nth is not None and self._seen != self.nth:
            return False
        # Drawn for every candidate, so that the same requests are struck whatever else is armed.
        return self.probability is None or self._random.random() < self.probability

    def refusal(self) -> ApiError | None:
        """Return the error that is answered instead of serving the request, if that is the fault."""
        match self.kind:
            case FaultKind.RATE_LIMITED:
                return rate_limited(self.reason)
            case FaultKind.LOCK_TIMEOUT:
                return lock_timeout()
            case FaultKind.CONFLICT_409:
                return key_in_use()
            case FaultKind.ERROR_500_UNSTORED:
                return internal_error()
            case _:
                return None


class FaultPlan:
    """The armed faults; a request meets the first that strikes."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def arm(self, fault: Fault) -> Fault:
        """Add a fault; its count of requests starts now."""
        self._faults.append(fault)
        return fault

    def disarm(self) -> None:
        """Remove every fault."""
        self._faults = []

    def pick(self, operation: Operation) -> Fault | None:
        """Count a request with every fault, and give the one that strikes it."""
        striking = [fault for fault in self._faults if fault.strikes(operation)]
        if not striking:
            return None
        striking[0].fired += 1
        return striking[0]
