"""Where a page of a list ended, as a text that goes back and forth in addresses."""

import re

from spell_billing.core.errors import MonthError
from spell_billing.core.month import Month
from spell_billing.ledger.browsing import BillKey

_KEY = re.compile(r"([1-9][0-9]{0,8})-([^\x00]*)")


def pack(key: BillKey) -> str:
    """Write a bill's place in a list; nobody needs to read it but `unpack`."""
    name, generation = key
    return f"{generation}-{name}"


def unpack(text: str) -> BillKey | None:
    """Read what `pack` wrote; None for anything else."""
    key = _KEY.fullmatch(text)
    return (key[2], int(key[1])) if key else None


def unpack_month(text: str) -> BillKey | None:
    """Read a place in a list of one user's bills: month and generation; None for anything else."""
    key = unpack(text)
    try:
        return key and (str(Month.parse(key[0])), key[1])
    except MonthError:
        return None
