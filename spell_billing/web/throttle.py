"""Slows down clients that try wrong secrets, address by address, in bounded memory."""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta

FREE_TRIES = 5
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=60)
FORGET_AFTER = timedelta(minutes=15)
MOST_ADDRESSES = 10_000
_MOST_DOUBLINGS = 10
_IPV6_PREFIX = 64
"""One customer of a provider has at least so many addresses: they count as one."""


@dataclass(slots=True)
class _Tries:
    wrong: int
    last: datetime
    next_at: datetime


class Throttle:
    """Counts wrong tries: the first five cost nothing, each one after that a pause twice as long, up to 60 s.

    In a pause nothing that an address gives is looked at, so that a right guess is not told from a wrong one.
    """

    def __init__(self, *, most_addresses: int = MOST_ADDRESSES) -> None:
        self._most_addresses = most_addresses
        self._tries: OrderedDict[str, _Tries] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tries)

    def pause_seconds(self, address: str, now: datetime) -> int:
        """Return how long the address must wait before its next try: whole seconds, 0 for not at all."""
        tries = self._tries.get(_place(address))
        if tries is None or tries.next_at <= now:
            return 0
        return -int((now - tries.next_at) // timedelta(seconds=1))

    def count_wrong(self, address: str, now: datetime) -> None:
        """Count a wrong try."""
        place = _place(address)
        tries = self._tries.pop(place, None)
        wrong = 1 if tries is None or now - tries.last > FORGET_AFTER else tries.wrong + 1
        doublings = min(wrong - FREE_TRIES - 1, _MOST_DOUBLINGS)
        pause = min(FIRST_PAUSE * 2**doublings, LONGEST_PAUSE) if doublings >= 0 else timedelta()
        self._tries[place] = _Tries(wrong, now, now + pause)
        while len(self._tries) > self._most_addresses:
            self._tries.popitem(last=False)

    def count_right(self, address: str) -> None:
        """Forget the wrong tries of an address that gave the right secret."""
        self._tries.pop(_place(address), None)


def _place(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    mapped = parsed.ipv4_mapped
    if mapped is not None:
        return str(mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
