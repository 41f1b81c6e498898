"""What each engine calls the types and functions that the SQL of a lake needs."""

from collections.abc import Callable
from typing import Any

import ibis
import ibis.expr.datatypes as dt

from spell_billing.usage.lake_sql import DIGITS, Dialect

_BIGNUMERIC = dt.Decimal(76, 38)


def _builtin(name: str, takes: dt.DataType, gives: dt.DataType) -> Callable[[Any], Any]:
    """Return a function that the engine has, by the name that it has there."""

    def function(_: Any) -> Any: ...

    found: Callable[[Any], Any] = ibis.udf.scalar.builtin(function, name=name, signature=((takes,), gives))
    return found


_utf8 = _builtin("to_utf8", dt.string, dt.binary)
_trino_hash = _builtin("xxhash64", dt.binary, dt.binary)
_trino_number = _builtin("from_big_endian_64", dt.binary, dt.int64)


def _decimal(scale: int) -> dt.Decimal:
    return dt.Decimal(DIGITS, scale)


DIALECTS = {
    # No other engine here has infinite times.
    "duckdb": Dialect(
        _decimal,
        _builtin("md5_number_lower", dt.string, dt.uint64),
        is_infinite=_builtin("isinf", dt.timestamp, dt.boolean),
    ),
    "spark": Dialect(_decimal, _builtin("xxhash64", dt.string, dt.int64)),
    "clickhouse": Dialect(_decimal, _builtin("sipHash64", dt.string, dt.uint64)),
    # Its NUMERIC has 29 digits before the point and 9 after it; BIGNUMERIC has 38 each.
    "bigquery": Dialect(lambda _: _BIGNUMERIC, _builtin("farm_fingerprint", dt.string, dt.int64)),
    "snowflake": Dialect(_decimal, _builtin("md5_number_lower64", dt.string, dt.uint64)),
    "trino": Dialect(_decimal, lambda text: _trino_number(_trino_hash(_utf8(text)))),
}
