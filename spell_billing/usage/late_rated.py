"""Late usage of a month with rate cards: compared by user and item, and handed on at what it changes.

What is handed on is the price of all that is known now less the price of all that was known before, by the
cards that were frozen with the month: so tiers come out as if every call had come on time.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from spell_billing.core.items import OTHER
from spell_billing.core.money import exact_sum, plain
from spell_billing.usage.duck import parquet_list, registered
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.late_bad import count_bad_rows
from spell_billing.usage.rate_cards import Counts, frozen_cards
from spell_billing.usage.rated_items import QUANTITY, counted, plans_of
from spell_billing.usage.tables import texts
from spell_billing.usage.usage_tables import UsageTables

_SUMS = (
    "SELECT user_id, item, sum(calls)::BIGINT AS calls, sum(measured)::BIGINT AS measured, "
    "sum(quantity)::{quantity} AS quantity, sum(stored_cents)::{money} AS stored_cents "
)


class RatedMonth:
    """The comparison of one month, in tables of DuckDB that it leaves behind for the next one to replace."""

    def __init__(
        self,
        duck: duckdb.DuckDBPyConnection,
        one: FrozenUsage,
        recorded: Sequence[Path],
        tables: UsageTables,
        *,
        scale: int,
        some_users: bool,
    ) -> None:
        cards = frozen_cards(one)
        if cards is None:
            raise ValueError(f"{one.month}/{one.version} has no rate cards")
        self._duck, self._one, self._cards, self._scale = duck, one, cards, scale
        self._recorded, self._tables, self._keeps_losses = recorded, tables, not some_users
        self._which = "user_id IN (SELECT user_id FROM those)" if some_users else "true"
        self._sums = _SUMS.format(quantity=QUANTITY, money=f"DECIMAL(38, {scale})")
        duck.execute(f"CREATE OR REPLACE TABLE on_time AS {counted(one, scale)}")
        parts = ["FROM on_time", *(self._late(path) for path in recorded)]
        duck.execute(
            f"CREATE OR REPLACE TABLE known AS {self._sums} FROM ({' UNION ALL '.join(parts)}) "
            f"WHERE {self._which} GROUP BY user_id, item",
            {"month": str(one.month)} if recorded else None,
        )
        # By which plan what came late first was priced.
        duck.execute("CREATE OR REPLACE TABLE plans_then (user_id VARCHAR PRIMARY KEY, plan_id VARCHAR)")
        for path in (each for each in recorded if "plan_id" in pq.read_schema(each).names):
            duck.execute(
                "INSERT OR IGNORE INTO plans_then SELECT DISTINCT user_id, plan_id "
                f"FROM {parquet_list([path])} WHERE usage_month = $month AND item IS NOT NULL",
                {"month": str(one.month)},
            )

    def compare(self, *, has_unique_ids: bool) -> None:
        """Add what differs now to the table `late`; what cannot be billed any more as `late_bad` does."""
        with registered(self._duck, "source_now", self._tables.items(self._one)):
            self._duck.execute(
                f"CREATE OR REPLACE TABLE parts AS SELECT user_id, item, calls::BIGINT AS calls, "
                f"measured::BIGINT AS measured, quantity::{QUANTITY} AS quantity, "
                f"cost_cents::DECIMAL(38, {self._scale}) AS stored_cents FROM source_now WHERE {self._which}"
            )
        self._duck.execute(
            f"CREATE OR REPLACE TABLE changed AS {self._sums} FROM (FROM parts UNION ALL "
            "SELECT user_id, item, -calls, -measured, -quantity, -stored_cents FROM known) "
            "GROUP BY user_id, item"
        )
        count_bad_rows(
            self._duck,
            self._one,
            self._tables.bad_now(self._one.month),
            self._recorded,
            counted=partial(counted, self._one, self._scale),
            keys=("user_id", "item"),
            measures=("calls", "measured", "quantity", "stored_cents"),
            has_unique_ids=has_unique_ids,
            keeps_losses=self._keeps_losses,
        )
        self._write_differences()

    def _write_differences(self) -> None:
        """Add the differences to the table `late`, each with what it changes of the price."""
        no_plans = pa.table({"user_id": texts([]), "plan_id": texts([])})
        self._duck.register("plans_now", self._tables.account_plans() if self._cards.has_plans else no_plans)
        rows = self._duck.execute(
            "SELECT c.user_id, c.item, c.calls, c.measured, c.quantity::VARCHAR, c.stored_cents::VARCHAR, "
            "coalesce(k.calls, 0), coalesce(k.measured, 0), coalesce(k.quantity, 0)::VARCHAR, "
            # Who had nothing on time may be new, or a new id: the plan that was frozen is of others. What
            # came late first was priced by the plan of then, and so is the rest.
            "CASE WHEN p.plan_id IS NOT NULL OR c.user_id IN (SELECT user_id FROM on_time) THEN p.plan_id "
            "WHEN r.user_id IS NOT NULL THEN r.plan_id ELSE n.plan_id END "
            "FROM changed AS c LEFT JOIN known AS k USING (user_id, item) "
            f"LEFT JOIN {plans_of(self._one)} AS p ON p.user_id = c.user_id "
            "LEFT JOIN plans_then AS r ON r.user_id = c.user_id "
            "LEFT JOIN plans_now AS n ON n.user_id = c.user_id "
            "WHERE c.calls <> 0 OR c.measured <> 0 OR c.quantity <> 0 OR c.stored_cents <> 0 "
            "ORDER BY c.user_id, c.item"
        ).fetchall()
        self._duck.unregister("plans_now")
        if not rows:
            return
        costs = []
        for user, item, calls, measured, quantity, stored, had, had_measured, had_quantity, plan in rows:
            before = Counts(had, had_measured, Decimal(had_quantity))
            now = Counts(calls + had, measured + had_measured, exact_sum(Decimal(quantity), before.quantity))
            costs.append(_difference(self._cards.price(user, plan, item, [before, now])) or stored)
        columns = [*zip(*(row[:6] for row in rows), strict=True)]
        plans = texts(row[9] for row in rows)
        late = {
            name: texts(map(str, column))
            for name, column in zip(
                ("user_id", "item", "calls", "measured", "quantity", "stored_cents"), columns, strict=True
            )
        }
        self._duck.register("priced", pa.table({**late, "cost_cents": texts(costs), "plan_id": plans}))
        self._duck.execute(
            "INSERT INTO late SELECT $month, user_id, calls::BIGINT, "
            f"cost_cents::DECIMAL(38, {self._scale}), item, measured::BIGINT, quantity::{QUANTITY}, "
            f"stored_cents::DECIMAL(38, {self._scale}), plan_id FROM priced",
            {"month": str(self._one.month)},
        )
        self._duck.unregister("priced")

    def _late(self, path: Path) -> str:
        """Return SQL for what a file recorded as late; as `other` where it was not by item."""
        money = f"DECIMAL(38, {self._scale})"
        by_item = "item" in pq.read_schema(path).names
        columns = (
            f"coalesce(item, '{OTHER}'), calls, coalesce(measured, 0), coalesce(quantity, 0), "
            f"coalesce(stored_cents, cost_cents)::{money}"
            if by_item
            else f"'{OTHER}', calls, 0, 0, cost_cents::{money}"
        )
        return f"SELECT user_id, {columns} FROM {parquet_list([path])} WHERE usage_month = $month"


def _difference(prices: Sequence[Decimal] | None) -> str | None:
    """Return what a price rises by, as text; None where no card prices the item."""
    if prices is None:
        return None
    before, now = prices
    return plain(exact_sum(now, before.copy_negate()))
