"""Compares what a request gives with the secrets, in constant time, and slows wrong tries down."""

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool

from spell_billing.web.facts import Facts
from spell_billing.web.people import Person, is_secret_of, nobodys_hash

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


@dataclass(frozen=True, slots=True)
class Tried:
    """What a try came to: how many seconds the address waits before the next, and whose secret it was.

    A right secret that is no person's is the one of `ADMIN_SECRET`.
    """

    verdict: Verdict
    pause_seconds: int = 0
    person: Person | None = None


class SecretCheck:
    """The one place where secrets are compared: for the header and for the page to sign in.

    A person gives `name:secret`. A hash is slow on purpose: one at a time is computed, in a thread, and a
    secret that was right is known by its digest from then on.
    """

    def __init__(
        self,
        secret: SecretStr,
        people: Mapping[str, Person],
        clock: Callable[[], datetime],
        throttle: Throttle,
    ) -> None:
        # Digests have one length: the time of comparing does not even tell how long the secret is.
        self._digest = hashlib.sha256(secret.get_secret_value().encode()).digest()
        self._people = people
        self._nobody = nobodys_hash(people) if people else None
        self._known: dict[str, bytes] = {}
        self._hashing = asyncio.Lock()
        self._clock = clock
        self._throttle = throttle

    async def try_secret(self, given: bytes, facts: Facts) -> Tried:
        """Compare what a request gives, as it came, and note in its facts when it is not let in."""
        tried = self._too_soon(facts.address) or await self._compare(given, facts.address)
        if tried.verdict is Verdict.RIGHT:
            self._throttle.count_right(facts.address)
        else:
            facts.action = tried.verdict.value
        return tried

    async def _compare(self, given: bytes, address: str) -> Tried:
        digest = hashlib.sha256(given).digest()
        if hmac.compare_digest(digest, self._digest):
            return Tried(Verdict.RIGHT)
        name, colon, secret = given.partition(b":")
        if not colon or not self._people:
            return self._wrong(address)
        key = name.decode("latin-1").casefold()
        person = self._people.get(key)
        if hmac.compare_digest(digest, self._known.get(key, b"")):
            return Tried(Verdict.RIGHT, person=person)
        async with self._hashing:
            # Tries that came together do not escape the pause.
            too_soon = self._too_soon(address)
            if too_soon is not None:
                return too_soon
            if not await self._is_right(person, secret):
                return self._wrong(address)
            self._known[key] = digest
        return Tried(Verdict.RIGHT, person=person)

    async def _is_right(self, person: Person | None, secret: bytes) -> bool:
        # A name that nobody has takes as long as one that somebody has.
        hashed = person.hash if person is not None and person.hash else self._nobody
        right = hashed is not None and await run_in_threadpool(is_secret_of, hashed, secret)
        return right and person is not None and person.hash is not None

    def _too_soon(self, address: str) -> Tried | None:
        pause = self._throttle.pause_seconds(address, self._clock())
        return Tried(Verdict.TOO_SOON, pause) if pause else None

    def _wrong(self, address: str) -> Tried:
        now = self._clock()
        self._throttle.count_wrong(address, now)
        return Tried(Verdict.WRONG, self._throttle.pause_seconds(address, now))


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
