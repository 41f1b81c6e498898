"""What each user has of each item in a month with rate cards: counted and priced out of core."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.items import OTHER, ItemUsage
from spell_billing.core.money import plain
from spell_billing.core.rate_cards import MOST_PLACES, RateCard
from spell_billing.usage.amounts import exact
from spell_billing.usage.duck import calls_in, open_duckdb, parquet_list, write_parquet
from spell_billing.usage.frozen import USER_ITEMS_FILE, FrozenUsage
from spell_billing.usage.rate_cards import Counts, RateCards, frozen_cards
from spell_billing.usage.tables import texts
from spell_billing.usage.user_usage import open_user_usage

QUANTITY = f"DECIMAL(38, {MOST_PLACES})"
_ROWS_AT_ONCE = 50_000
_PRICED = "counted JOIN prices USING (plan_id, item, calls, measured, quantity)"


def counted(frozen: FrozenUsage, scale: int, where: str = "") -> str:
    """Return SQL that counts frozen rows: user_id, item, calls, measured, quantity, stored_cents."""
    detail = frozen.manifest.detail
    item = "item" if detail.items_by else f"'{OTHER}'"
    quantity = "quantity" if detail.has_quantity else "NULL"
    measured = "sum(measured)::BIGINT" if frozen.manifest.is_summed else f"count({quantity})"
    # To group uuids as text takes twice as long.
    return (
        f"SELECT user_id::VARCHAR AS user_id, * EXCLUDE (user_id) FROM (SELECT user_id, {item} AS item, "
        f"{calls_in(frozen)} AS calls, {measured} AS measured, "
        f"coalesce(sum({quantity}), 0)::{QUANTITY} AS quantity, "
        f"sum(cost_cents)::DECIMAL(38, {scale}) AS stored_cents FROM {parquet_list(frozen.paths)} {where} "
        f"GROUP BY ALL)"
    )


def plans_of(frozen: FrozenUsage) -> str:
    """Return SQL that reads the frozen plan of users: user_id, plan_id."""
    rates = frozen.manifest.rates
    if rates is None or rates.plans is None:
        return "(SELECT '' AS user_id, NULL::VARCHAR AS plan_id WHERE false)"
    return f"(SELECT user_id, plan_id FROM {parquet_list([frozen.path(rates.plans)])})"


def write_rated_items(
    duck: duckdb.DuckDBPyConnection, frozen: FrozenUsage, path: Path
) -> tuple[Decimal, tuple[str, ...]]:
    """Write each user's items as Parquet: user_id, item, calls, cost_cents, quantity, stored_cents; in order.

    cost_cents is what is charged, stored_cents what the rows say. Returns the sum of the latter, and the
    cards in words that priced nothing: a name may be misspelt.

    Raises:
        UsageError: a call lacks the quantity that is priced.
    """
    cards = frozen_cards(frozen)
    if cards is None:
        raise ValueError(f"{frozen.month}/{frozen.version} has no rate cards")
    money = f"DECIMAL(38, {frozen.manifest.charge_scale})"
    _count(duck, frozen, frozen.manifest.charge_scale, plans_of(frozen))
    used = _price(duck, cards, money)
    write_parquet(
        duck,
        "SELECT user_id, item, calls, coalesce(price, stored_cents) AS cost_cents, quantity, stored_cents "
        f"FROM {_PRICED} ORDER BY user_id, item",
        path,
    )
    ((stored_cents,),) = duck.execute(
        "SELECT coalesce(sum(stored_cents), 0)::VARCHAR FROM counted"
    ).fetchall()
    return exact(stored_cents), cards.names_without(used)


def rated_costs(
    frozen: FrozenUsage, cards: RateCards, plans: Mapping[str, str | None]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return what each user's frozen calls cost by any cards, in cents as text; nothing is written.

    Args:
        frozen: The month, whose rows have what the cards ask for.
        cards: The cards; what none of them prices keeps its stored cost.
        plans: The plan of each user, for cards of a plan.

    Returns:
        The costs, and the cards in words that priced nothing.

    Raises:
        UsageError: a call lacks the quantity that is priced.
    """
    scale = cards.charge_scale(frozen.manifest.cost_scale)
    with open_duckdb(Path(tempfile.gettempdir())) as duck:
        duck.register("plans", pa.table({"user_id": texts(plans), "plan_id": texts(plans.values())}))
        _count(duck, frozen, scale, "plans")
        used = _price(duck, cards, f"DECIMAL(38, {scale})")
        rows = duck.execute(
            f"SELECT user_id, sum(coalesce(price, stored_cents))::VARCHAR FROM {_PRICED} GROUP BY user_id"
        ).fetchall()
    return dict(rows), cards.names_without(used)


def frozen_plans(frozen: FrozenUsage) -> dict[str, str]:
    """Return the plan of each user who had one, where the month's cards asked for it."""
    with open_duckdb(Path(tempfile.gettempdir())) as duck:
        return dict(duck.execute(f"SELECT user_id, plan_id FROM {plans_of(frozen)}").fetchall())


def _count(duck: duckdb.DuckDBPyConnection, frozen: FrozenUsage, scale: int, plans: str) -> None:
    """Count what each user has of each item, beside the user's plan."""
    duck.execute(
        f"CREATE TABLE counted AS SELECT c.*, coalesce(p.plan_id, '') AS plan_id "
        f"FROM ({counted(frozen, scale)}) AS c LEFT JOIN {plans} AS p ON p.user_id = c.user_id"
    )


def _price(duck: duckdb.DuckDBPyConnection, cards: RateCards, money: str) -> set[int]:
    """Price each count once, however many users have it; return the identities of the cards that did."""
    of = "plan_id, item, calls, measured, quantity"
    duck.execute(
        "CREATE TABLE prices (plan_id VARCHAR, item VARCHAR, calls BIGINT, measured BIGINT, "
        f"quantity {QUANTITY}, price {money})"
    )
    counts = duck.cursor().execute(
        f"SELECT any_value(user_id), {of.replace('quantity', 'quantity::VARCHAR')} FROM counted GROUP BY {of}"
    )
    used = set[int]()
    while rows := counts.fetchmany(_ROWS_AT_ONCE):
        priced = []
        for user, plan, item, calls, measured, quantity in rows:
            used.add(id(cards.card_for(plan or None, item)))
            found = cards.price(user, plan or None, item, [Counts(calls, measured, Decimal(quantity))])
            priced.append(plain(found[0]) if found else None)
        plans, items, *numbers = [*zip(*rows, strict=True)][1:]
        columns = [plans, items, *(map(str, column) for column in numbers), priced]
        names = [*of.split(", "), "price"]
        duck.register("batch", pa.table(dict(zip(names, map(texts, columns), strict=True))))
        duck.execute(
            "INSERT INTO prices SELECT plan_id, item, calls::BIGINT, measured::BIGINT, "
            f"quantity::{QUANTITY}, price::{money} FROM batch"
        )
        duck.unregister("batch")
    return used


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
            cards.card_for(plan[0] if plan else None, row["item"]),
        )
        for row in rows
    ]
