"""Where a page of a list ended, as a text that goes back and forth in addresses."""

from spell_billing.core.errors import MonthError
from spell_billing.core.month import Month
from spell_billing.ledger.browsing import BillKey

_DIGITS = 9


def pack(key: BillKey) -> str:
    """Write a bill's place in a list; nobody needs to read it but `unpack`."""
    name, generation = key
    return f"{generation}-{name}"


def unpack(text: str) -> BillKey | None:
    """Read what `pack` wrote; None for anything else."""
    generation, dash, name = text.partition("-")
    is_number = generation.isascii() and generation.isdigit() and len(generation) <= _DIGITS
    if not dash or not is_number or int(generation) == 0 or "\x00" in name:
        return None
    return name, int(generation)


def unpack_month(text: str) -> BillKey | None:
    """Read a place in a list of one user's bills: month and generation; None for anything else."""
    key = unpack(text)
    try:
        return key and (str(Month.parse(key[0])), key[1])
    except MonthError:
        return None
