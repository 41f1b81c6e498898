"""Adds up the frozen rows of a month once more, for reconciliation: what was aggregated may be altered."""

from decimal import Decimal

from spell_billing.usage.duck import calls_in, open_duckdb, parquet_list
from spell_billing.usage.frozen import FrozenUsage


def frozen_users(frozen: FrozenUsage) -> dict[str, tuple[int, Decimal]]:
    """Return each user's calls and their exact stored cost, from the frozen rows alone.

    Of a month that an engine added up, the frozen files have the sums, and no rows.
    """
    with open_duckdb(frozen.directory.parent) as duck:
        rows = duck.execute(
            f"SELECT user_id::VARCHAR AS u, {calls_in(frozen)}, sum(cost_cents)::VARCHAR "
            f"FROM {parquet_list(frozen.paths)} GROUP BY u"
        )
        return {user: (calls, Decimal(cents)) for user, calls, cents in rows.fetchall()}
