"""What a month is priced by, from what was frozen with it."""

from collections import Counter, defaultdict
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spell_billing.core.money import exact_sum
from spell_billing.core.rate_cards import place_for
from spell_billing.core.review_prices import Prices
from spell_billing.usage.frozen import USER_ITEMS_FILE, FrozenUsage
from spell_billing.usage.plan_book import DISCOUNT, PLAN, PLANS_SCHEMA, running
from spell_billing.usage.rate_cards import RateCards, frozen_cards
from spell_billing.usage.user_usage import open_user_usage

_PARTS = {
    "fee_cents": "monthly fee",
    "included_cents": "allowance",
    "minimum_cents": "minimum",
    "percent": "discount on usage",
}


def prices_of(frozen: FrozenUsage) -> Prices:
    """Return the prices that were frozen with a month, in words."""
    rates, table = frozen_cards(frozen), PLANS_SCHEMA.empty_table()
    if frozen.manifest.plans is not None:
        with pq.ParquetFile(frozen.path(frozen.manifest.plans)) as file:
            table = file.read()
    of_plans = table.filter(pc.field("kind") == PLAN)
    spans = running(of_plans, frozen.month.start, frozen.month.end)
    always = spans.filter(pc.field("starts_at").is_null() & pc.field("ends_at").is_null())
    at_end = spans.filter(pc.field("ends_at").is_null() | (pc.field("ends_at") >= frozen.month.end))
    ended = of_plans.filter(pc.field("starts_at").is_null() & pc.field("ends_at").is_valid())
    later = pc.field("starts_at") >= frozen.month.end
    # A user whose subscriptions are all of other times has an empty span without a plan: see `build_plans`.
    elsewhere = of_plans.filter(later | (pc.field("plan_id") == ""))["user_id"].to_pylist()
    discounts = table.filter(pc.field("kind") == DISCOUNT)
    has_value = (pc.field("percent").cast(pa.float64()) != 0) | (pc.field("amount_cents") != 0)
    discounts = discounts.filter(has_value | (pc.field("ends_at") <= frozen.month.start))
    lasting = discounts.filter(pc.field("ends_at").is_null() | (pc.field("ends_at") > frozen.month.end))
    plans = spans.select(["plan_id", *_PARTS]).group_by(["plan_id", *_PARTS]).aggregate([]).to_pylist()
    of_cards = _charged(frozen, rates) if rates else {}
    return Prices(
        cards=frozenset(card.place for card in rates.rows) if rates else frozenset(),
        **of_cards,
        plans=frozenset(plan["plan_id"] for plan in plans),
        parts=frozenset(
            (plan["plan_id"], words)
            for plan in plans
            for name, words in _PARTS.items()
            if _is_set(plan[name])
        ),
        discounts=frozenset(_discount(row) for row in discounts.to_pylist()),
        lasting=frozenset(_discount(row) for row in lasting.to_pylist()),
        users=frozenset(always["user_id"].to_pylist()),
        planned=frozenset(user for table in (at_end, ended) for user in table["user_id"].to_pylist()),
        switched_off=frozenset(elsewhere) - frozenset(spans["user_id"].to_pylist()),
    )


def _charged(frozen: FrozenUsage, rates: RateCards) -> dict[str, Any]:
    """Return what each card charged, the calls, and those that no card prices: what `Prices` has of them."""
    with open_user_usage(frozen, USER_ITEMS_FILE) as file:
        table = file.read(["user_id", "item", "calls", "cost_cents"])
    if rates.has_plans and frozen.manifest.rates and frozen.manifest.rates.plans:
        with pq.ParquetFile(frozen.path(frozen.manifest.rates.plans)) as file:
            table = table.join(file.read(["user_id", "plan_id"]), "user_id")
    else:
        table = table.append_column("plan_id", pa.nulls(len(table), pa.string()))
    sums = (
        table.group_by(["plan_id", "item"]).aggregate([("calls", "sum"), ("cost_cents", "sum")]).to_pylist()
    )
    names = {(row.plan_id, row.item): row.place for row in rates.rows}
    items_of_plans = {row.item for row in rates.rows if row.plan_id is not None}
    charged: defaultdict[str, Decimal] = defaultdict(Decimal)
    free, forgotten = Counter[str](), Counter[str]()
    at_stored_cost = False
    for row in sums:
        plan_id, item, cents = row["plan_id"], row["item"], row["cost_cents_sum"]
        place = place_for(rates.cards, plan_id, item)
        if place is not None:
            charged[names[place]] = exact_sum(charged[names[place]], Decimal(cents))
        elif cents:
            at_stored_cost = True
        else:
            whose = "no plan" if plan_id is None else f"plan {plan_id}"
            free[whose] += row["calls_sum"]
            if not items_of_plans.isdisjoint({item, None}):
                forgotten[whose] += row["calls_sum"]
    return {
        "charged": dict(charged),
        "calls": sum(row["calls_sum"] for row in sums),
        "free_calls": free.total(),
        "forgotten": dict(forgotten if at_stored_cost else free),
    }


def _is_set(amount: int | str | None) -> bool:
    return amount is not None and float(amount) != 0


def _discount(row: dict[str, object]) -> str:
    of = f"user {row['user_id']}" if row["user_id"] is not None else f"plan {row['plan_id']}"
    return f"{row['name']} of {of}"
