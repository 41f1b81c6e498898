"""Where a page of a list ended, as a text that goes back and forth in addresses."""

import base64
import binascii

import orjson

from spell_billing.core.errors import MonthError
from spell_billing.core.month import Month
from spell_billing.ledger.browsing import BillKey

_LONGEST = 8_000


def pack(key: BillKey) -> str:
    """Write a bill's place in a list; nobody needs to read it but `unpack`."""
    return base64.urlsafe_b64encode(orjson.dumps(key)).decode().rstrip("=")


def unpack(text: str) -> BillKey | None:
    """Read what `pack` wrote; None for anything else."""
    if len(text) > _LONGEST or not text.isascii():
        return None
    try:
        found = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        return None
    match found:
        case [str(name), int(generation)] if type(generation) is int and 0 < generation < 2**31:
            return name, generation
    return None


def unpack_month(text: str) -> BillKey | None:
    """Read a place in a list of one user's bills: month and generation; None for anything else."""
    key = unpack(text)
    if key is None:
        return None
    try:
        Month.parse(key[0])
    except MonthError:
        return None
    return key
