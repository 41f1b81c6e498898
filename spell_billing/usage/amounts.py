"""Columns of amounts: exact sums and exact types, without a float and without silent overflow."""

from decimal import Decimal, localcontext

import pyarrow as pa
import pyarrow.compute as pc

MAX_SCALE = 18
"""Decimal places of a cent that a row may have."""

MAX_ABSOLUTE_COST = 10**18
"""A row with a fractional cost must stay below this many cents, so that it fits DECIMAL(38, 18)."""

_DECIMAL64_DIGITS = 18
_DECIMAL128_DIGITS = 38
_INT64_MAX = 2**63 - 1
# Sums of 38-digit amounts need more than the default 28 digits.
_SUM_DIGITS = 76


def exact(text: str) -> Decimal:
    """Read a database's decimal text, `1.50` as 1.5: equal amounts look equal."""
    value = Decimal(text)
    with localcontext(prec=_SUM_DIGITS):
        whole = value.to_integral_value()
        return whole if value == whole else value.normalize()


def fits_int64(scale: int, largest: Decimal) -> bool:
    """Return whether amounts up to `largest` (absolute) with `scale` decimal places fit 18 digits."""
    with localcontext(prec=_SUM_DIGITS):
        return bool(largest.scaleb(scale) < 10**_DECIMAL64_DIGITS)


def is_billable(scale: int, largest: Decimal) -> bool:
    """Return whether amounts up to `largest` (absolute) with `scale` decimal places can be billed exactly."""
    return largest.is_finite() and largest < MAX_ABSOLUTE_COST and scale <= MAX_SCALE


def amount_type(scale: int, *, as_text: bool) -> pa.DataType:
    """Return the type of a column of amounts with `scale` decimal places, by how they travel."""
    if as_text:
        return pa.decimal128(_DECIMAL128_DIGITS, scale)
    return pa.int64() if scale == 0 else pa.decimal64(_DECIMAL64_DIGITS, scale)


def as_decimal(units: pa.Array, kind: pa.DataType) -> pa.Array:
    """Relabel int64 units, below 10**18, as decimals of a type: without touching a digit (or a copy)."""
    return pa.Array.from_buffers(
        kind, len(units), units.buffers(), null_count=units.null_count, offset=units.offset
    )


def exact_sum(column: pa.Array) -> Decimal:
    """Sum a column of int64 or decimals exactly; pyarrow's own int64 sum wraps around silently."""
    if len(column) == 0:
        return Decimal(0)
    if pa.types.is_decimal(column.type):
        wide = pc.cast(column, pa.decimal256(_SUM_DIGITS, column.type.scale))
        return Decimal(pc.sum(wide).as_py())
    extremes = pc.min_max(column).as_py()
    if max(abs(extremes["min"]), abs(extremes["max"])) * len(column) <= _INT64_MAX:
        return Decimal(pc.sum(column).as_py())
    high = pc.sum(pc.shift_right(column, 32)).as_py()
    low = pc.sum(pc.bit_wise_and(column, 0xFFFFFFFF)).as_py()
    return Decimal((high << 32) + low)
