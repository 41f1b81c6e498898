"""Reads what a version recorded as late."""

from decimal import Decimal

import pyarrow.parquet as pq

from spell_billing.usage.frozen import FrozenUsage


def late_rows(frozen: FrozenUsage) -> list[tuple[str, str, int, Decimal]]:
    """Return month, user, calls and cents of each difference."""
    late = frozen.manifest.late
    if late is None:
        return []
    rows = pq.read_table(frozen.directory / late.file.name).to_pylist()
    return [(row["usage_month"], row["user_id"], row["calls"], row["cost_cents"]) for row in rows]
