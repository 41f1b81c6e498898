"""Compares what a request gives with the admin secret, in constant time, and slows wrong tries down."""

import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime
from enum import Enum

from pydantic import SecretStr

from spell_billing.web.throttle import Throttle


class Verdict(Enum):
    """What a try came to."""

    RIGHT = "right"
    WRONG = "wrong"
    TOO_SOON = "too soon"


class SecretCheck:
    """The one place where the secret is compared: for the header and for the page to sign in."""

    def __init__(self, secret: SecretStr, clock: Callable[[], datetime], throttle: Throttle) -> None:
        # Digests have one length: the time of comparing does not even tell how long the secret is.
        self._digest = hashlib.sha256(secret.get_secret_value().encode()).digest()
        self._clock = clock
        self._throttle = throttle

    def try_secret(self, given: bytes, address: str) -> tuple[Verdict, int]:
        """Compare.

        Args:
            given: What the request gives, as it came.
            address: Where the request comes from.

        Returns:
            The verdict, and how many seconds the address waits before its next try (0: not at all).
        """
        now = self._clock()
        pause = self._throttle.pause_seconds(address, now)
        if pause:
            return Verdict.TOO_SOON, pause
        if hmac.compare_digest(hashlib.sha256(given).digest(), self._digest):
            self._throttle.count_right(address)
            return Verdict.RIGHT, 0
        self._throttle.count_wrong(address, now)
        return Verdict.WRONG, self._throttle.pause_seconds(address, now)
