"""What each user has of each item in a month with rate cards: counted out of core, then priced one by one."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spell_billing.core.errors import UsageError
from spell_billing.core.items import OTHER, ItemUsage
from spell_billing.core.money import exact_sum
from spell_billing.core.rate_cards import MOST_PLACES, RateCard, card_for
from spell_billing.usage.amounts import exact
from spell_billing.usage.contract import USER_ITEMS_FILE, FrozenUsage
from spell_billing.usage.duck import open_duckdb, parquet_list
from spell_billing.usage.rate_cards import Counts, RateCards, frozen_cards
from spell_billing.usage.tables import texts
from spell_billing.usage.user_usage import open_user_usage

QUANTITY = f"DECIMAL(38, {MOST_PLACES})"
_ROWS_AT_ONCE = 50_000


def counted(frozen: FrozenUsage, scale: int, where: str = "") -> str:
    """Return SQL that counts frozen rows: user_id, item, calls, measured, quantity, stored_cents."""
    detail = frozen.manifest.detail
    item = "item" if detail.items_by else f"'{OTHER}'"
    quantity = "quantity" if detail.has_quantity else "NULL"
    return (
        f"SELECT user_id::VARCHAR AS user_id, {item} AS item, count(*) AS calls, "
        f"count({quantity}) AS measured, coalesce(sum({quantity}), 0)::{QUANTITY} AS quantity, "
        f"sum(cost_cents)::DECIMAL(38, {scale}) AS stored_cents FROM {parquet_list(frozen.paths)} {where} "
        f"GROUP BY ALL"
    )


def plans_of(frozen: FrozenUsage) -> str:
    """Return SQL that reads the frozen plan of users: user_id, plan_id."""
    rates = frozen.manifest.rates
    if rates is None or rates.plans is None:
        return "(SELECT '' AS user_id, NULL::VARCHAR AS plan_id WHERE false)"
    return f"(SELECT user_id, plan_id FROM {parquet_list([frozen.directory / rates.plans.name])})"


def write_rated_items(duck: duckdb.DuckDBPyConnection, frozen: FrozenUsage, path: Path) -> Decimal:
    """Write each user's items as Parquet: user_id, item, calls, cost_cents, quantity, stored_cents; in order.

    cost_cents is what is charged, stored_cents what the rows say. Returns the sum of the latter.

    Raises:
        UsageError: a call lacks the quantity that is priced.
    """
    cards = frozen_cards(frozen)
    if cards is None:
        raise ValueError(f"{frozen.month}/{frozen.version} has no rate cards")
    scale = frozen.manifest.charge_scale
    money = pa.decimal128(38, scale)
    schema = pa.schema(
        [
            ("user_id", pa.string()),
            ("item", pa.string()),
            ("calls", pa.int64()),
            ("cost_cents", money),
            ("quantity", pa.decimal128(38, MOST_PLACES)),
            ("stored_cents", money),
        ]
    )
    duck.execute(
        "SELECT c.user_id, c.item, c.calls, c.measured, c.quantity::VARCHAR, c.stored_cents::VARCHAR, "
        f"p.plan_id FROM ({counted(frozen, scale)}) AS c "
        f"LEFT JOIN {plans_of(frozen)} AS p ON p.user_id = c.user_id "
        "ORDER BY c.user_id, c.item"
    )
    stored_cents = Decimal(0)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while rows := duck.fetchmany(_ROWS_AT_ONCE):
            try:
                writer.write_table(_priced(rows, cards, schema))
            except pa.ArrowInvalid as error:
                raise UsageError(
                    f"{frozen.month}/{frozen.version}: what a rate card prices exceeds 38 digits: {error}.",
                    remedy="Correct the absurd price or quantity, and freeze the month again.",
                ) from error
            stored_cents = exact_sum(stored_cents, *(Decimal(row[5]) for row in rows))
    return stored_cents


def _priced(rows: list[tuple[Any, ...]], cards: RateCards, schema: pa.Schema) -> pa.Table:
    users, items, calls, measured, quantities, stored, plans = zip(*rows, strict=True)
    costs = []
    for user, plan, item, number, known, quantity, cents in zip(
        users, plans, items, calls, measured, quantities, stored, strict=True
    ):
        price = cards.price(user, plan, item, [Counts(number, known, Decimal(quantity))])
        costs.append(cents if price is None else f"{price[0]:f}")
    columns = [
        texts(users),
        texts(items),
        texts(map(str, calls)),
        texts(costs),
        texts(quantities),
        texts(stored),
    ]
    return pa.Table.from_arrays(
        [column.cast(kind.type) for column, kind in zip(columns, schema, strict=True)], schema=schema
    )


@dataclass(frozen=True, slots=True)
class PricedItem:
    """What a user has of an item: what is charged for it, what the rows say, and the card that prices it."""

    usage: ItemUsage
    quantity: Decimal
    stored_cents: Decimal
    card: RateCard | None


def priced_items_of(frozen: FrozenUsage, user_id: str) -> list[PricedItem]:
    """Return a user's items of an aggregated month with rate cards; none of another month.

    Raises:
        UsageError: the version was not aggregated.
        IntegrityError: what was aggregated was altered.
    """
    cards = frozen_cards(frozen)
    if cards is None:
        return []
    with open_user_usage(frozen, USER_ITEMS_FILE) as file:
        table = file.read()
        rows = table.filter(pc.equal(table["user_id"], user_id)).to_pylist()
    with open_duckdb(frozen.directory.parent) as duck:
        query = f"SELECT plan_id FROM {plans_of(frozen)} WHERE user_id = $user_id"
        plan = duck.execute(query, {"user_id": user_id}).fetchone()
    return [
        PricedItem(
            ItemUsage(row["item"], row["calls"], exact(str(row["cost_cents"]))),
            exact(str(row["quantity"])),
            exact(str(row["stored_cents"])),
            card_for(cards.cards, plan[0] if plan else None, row["item"]),
        )
        for row in rows
    ]
