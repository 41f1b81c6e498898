"""Compares what a request gives with the admin secret, in constant time, and slows wrong tries down."""

import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum

from pydantic import SecretStr

from spell_billing.web.facts import Facts

FREE_TRIES = 5
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=60)
FORGET_AFTER = timedelta(minutes=15)
MOST_ADDRESSES = 10_000
_MOST_DOUBLINGS = 10
_IPV6_PREFIX = 64
"""One customer of a provider has at least this many addresses: they count as one."""


class Verdict(Enum):
    """What a try came to; the value is what the access log says."""

    RIGHT = None
    WRONG = "wrong secret"
    TOO_SOON = "secret tried too soon"


class Throttle:
    """Counts wrong tries: the first five cost nothing, each one after that a pause twice as long, up to 60 s.

    In a pause nothing that an address gives is looked at, so that a right guess is not told from a wrong one.
    """

    def __init__(self, *, most_addresses: int = MOST_ADDRESSES) -> None:
        self._most_addresses = most_addresses
        self._tries: dict[str, tuple[int, datetime]] = {}
        """How many were wrong, and when the last one was; the latest address stands last."""

    def __len__(self) -> int:
        return len(self._tries)

    def pause_seconds(self, address: str, now: datetime) -> int:
        """Return how long the address must wait before its next try: whole seconds, 0 for not at all."""
        wrong, last = self._tries.get(_network(address), (0, now))
        return max(0, -int((now - last - _pause(wrong)) // timedelta(seconds=1)))

    def count_wrong(self, address: str, now: datetime) -> None:
        """Count a wrong try."""
        network = _network(address)
        wrong, last = self._tries.pop(network, (0, now))
        self._tries[network] = (1 if now - last > FORGET_AFTER else wrong + 1), now
        while len(self._tries) > self._most_addresses:
            del self._tries[next(iter(self._tries))]

    def count_right(self, address: str) -> None:
        """Forget the wrong tries of an address that gave the right secret."""
        self._tries.pop(_network(address), None)


class SecretCheck:
    """The one place where the secret is compared: for the header and for the page to sign in."""

    def __init__(self, secret: SecretStr, clock: Callable[[], datetime], throttle: Throttle) -> None:
        # Digests have one length: the time of comparing does not even tell how long the secret is.
        self._digest = hashlib.sha256(secret.get_secret_value().encode()).digest()
        self._clock = clock
        self._throttle = throttle

    def try_secret(self, given: bytes, facts: Facts) -> tuple[Verdict, int]:
        """Compare what a request gives, as it came, and note in its facts when it is not let in.

        Returns:
            The verdict, and how many seconds the address waits before its next try (0: not at all).
        """
        now, address = self._clock(), facts.address
        pause = self._throttle.pause_seconds(address, now)
        if pause:
            verdict = Verdict.TOO_SOON
        elif hmac.compare_digest(hashlib.sha256(given).digest(), self._digest):
            self._throttle.count_right(address)
            return Verdict.RIGHT, 0
        else:
            self._throttle.count_wrong(address, now)
            verdict, pause = Verdict.WRONG, self._throttle.pause_seconds(address, now)
        facts.action = verdict.value
        return verdict, pause


def _pause(wrong: int) -> timedelta:
    if wrong <= FREE_TRIES:
        return timedelta()
    return min(FIRST_PAUSE * (1 << min(wrong - FREE_TRIES - 1, _MOST_DOUBLINGS)), LONGEST_PAUSE)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
