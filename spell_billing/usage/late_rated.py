"""Late usage of a month with rate cards: compared by user and item, and handed on at what it changes.

What is handed on is the price of all that is known now less the price of all that was known before, by the
cards that were frozen with the month: so tiers come out as if every call had come on time.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from spell_billing.core.items import OTHER
from spell_billing.core.money import exact_sum, plain
from spell_billing.usage.duck import parquet_list
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.rate_cards import Counts, RateCards
from spell_billing.usage.rated_items import plans_of
from spell_billing.usage.tables import texts

PlansNow = Callable[[], pa.Table]
"""Reads the plan that each user is on now: user_id, plan_id."""


def write_rated_differences(
    duck: duckdb.DuckDBPyConnection,
    one: FrozenUsage,
    cards: RateCards,
    recorded: Sequence[Path],
    plans_now: PlansNow,
) -> None:
    """Add what `changed` has to the table `late`, each with what it changes of the price."""
    # By which plan what came late first was priced.
    duck.execute("CREATE OR REPLACE TABLE plans_then (user_id VARCHAR PRIMARY KEY, plan_id VARCHAR)")
    for path in (each for each in recorded if "plan_id" in pq.read_schema(each).names):
        duck.execute(
            "INSERT OR IGNORE INTO plans_then SELECT DISTINCT user_id, plan_id "
            f"FROM {parquet_list([path])} WHERE usage_month = '{one.month}' AND item IS NOT NULL"
        )
    no_plans = pa.table({"user_id": texts([]), "plan_id": texts([])})
    duck.register("plans_now", plans_now() if cards.has_plans else no_plans)
    rows = duck.execute(
        "SELECT c.user_id, c.item, c.calls, c.measured, c.quantity::VARCHAR, c.stored_cents::VARCHAR, "
        "coalesce(k.calls, 0), coalesce(k.measured, 0), coalesce(k.quantity, 0)::VARCHAR, "
        # Who had nothing on time may be new, or a new id: the plan that was frozen is of others. What
        # came late first was priced by the plan of then, and so is the rest.
        "CASE WHEN p.plan_id IS NOT NULL OR c.user_id IN (SELECT user_id FROM on_time) THEN p.plan_id "
        "WHEN r.user_id IS NOT NULL THEN r.plan_id ELSE n.plan_id END "
        "FROM changed AS c LEFT JOIN known AS k USING (user_id, item) "
        f"LEFT JOIN {plans_of(one)} AS p ON p.user_id = c.user_id "
        "LEFT JOIN plans_then AS r ON r.user_id = c.user_id "
        "LEFT JOIN plans_now AS n ON n.user_id = c.user_id "
        "WHERE c.calls <> 0 OR c.measured <> 0 OR c.quantity <> 0 OR c.stored_cents <> 0 "
        "ORDER BY c.user_id, c.item"
    ).fetchall()
    duck.unregister("plans_now")
    if not rows:
        return
    costs = []
    for user, item, calls, measured, quantity, stored, had, had_measured, had_quantity, plan in rows:
        before = Counts(had, had_measured, Decimal(had_quantity))
        now = Counts(calls + had, measured + had_measured, exact_sum(Decimal(quantity), before.quantity))
        costs.append(_difference(cards.price(user, plan, item, [before, now])) or stored)
    columns = [*zip(*(row[:6] for row in rows), strict=True)]
    plans = texts(row[9] for row in rows)
    late = {
        name: texts(map(str, column))
        for name, column in zip(
            ("user_id", "item", "calls", "measured", "quantity", "stored_cents"), columns, strict=True
        )
    }
    duck.register("priced", pa.table({**late, "cost_cents": texts(costs), "plan_id": plans}))
    duck.execute(
        f"INSERT INTO late SELECT '{one.month}', user_id, calls, cost_cents, item, measured, quantity, "
        "stored_cents, plan_id FROM priced"
    )
    duck.unregister("priced")


def recorded_as_late(one: FrozenUsage, path: Path, scale: int) -> str:
    """Return SQL for what a file recorded as late for a month; as `other` where it was not by item."""
    columns, stored_cents = f"'{OTHER}' AS item, calls, 0 AS measured, 0 AS quantity", "cost_cents"
    if "item" in pq.read_schema(path).names:
        columns = (
            f"coalesce(item, '{OTHER}') AS item, calls, coalesce(measured, 0) AS measured, "
            "coalesce(quantity, 0) AS quantity"
        )
        stored_cents = "coalesce(stored_cents, cost_cents)"
    return (
        f"SELECT user_id, {columns}, {stored_cents}::DECIMAL(38, {scale}) AS stored_cents "
        f"FROM {parquet_list([path])} WHERE usage_month = '{one.month}'"
    )


def _difference(prices: Sequence[Decimal] | None) -> str | None:
    """Return what a price rises by, as text; None where no card prices the item."""
    if prices is None:
        return None
    before, now = prices
    return plain(exact_sum(now, before.copy_negate()))
