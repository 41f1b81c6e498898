"""`price_simulation`: what users would have paid in frozen months under other prices."""

import dagster as dg
from pydantic import Field

from spell_billing.core.money import format_money
from spell_billing.core.month import Month
from spell_billing.core.simulation import Figures
from spell_billing.orchestration.assets.common import failures, table, table_schema
from spell_billing.orchestration.assets.user_usage import user_usage
from spell_billing.orchestration.resources import LedgerResource, UsageResource
from spell_billing.orchestration.unstable import OWNERS
from spell_billing.reporting.new_pricing import read_pricing
from spell_billing.reporting.simulate import Simulation, simulate

COLUMNS = table_schema(
    ("month", "string", "The month, or `in all`"),
    ("currency", "string", "Of the amounts"),
    ("users", "int", "Users with usage or fees, before or after"),
    ("before_cents", "int", "What they paid, without late usage, credits and taxes"),
    ("after_cents", "int", "What they would have paid"),
    ("pay_more", "int", "Users who would have paid more"),
    ("pay_less", "int", "Users who would have paid less"),
    ("p50_cents", "int", "The change that half of the users do not exceed"),
    ("p95_cents", "int", "The change that 95 % of the users do not exceed"),
)


class PriceSimulation(dg.Config):
    """Which months, and which prices."""

    from_month: str = Field(description="The first month, as 2026-01.")
    to_month: str = Field(description="The last month, as 2026-06.")
    pricing: str = Field(description="The other prices, as YAML (docs/pricing.md).")


@dg.asset(
    deps=[user_usage],
    group_name="what_if",
    owners=OWNERS,
    kinds={"python"},
    tags={"spell_billing/step": "simulate"},
    code_version="1",
    metadata={"dagster/column_schema": COLUMNS},
    description="What users would have paid in frozen months under other prices. The ledger is only read.",
)
def price_simulation(
    config: PriceSimulation, usage: UsageResource, ledger: LedgerResource
) -> dg.MaterializeResult[None]:
    """Rate frozen months under other prices."""
    with failures():
        first, last = Month.parse(config.from_month), Month.parse(config.to_month)
        # No path: who may launch this must not read the server's files through it.
        pricing = read_pricing(config.pricing, "pricing")
        with ledger.open_read_only() as opened:
            found = simulate(opened, usage.store(), first, last, pricing=pricing, name="pricing")
    rows = [(str(each.month), one) for each in found.months for one in each.figures]
    rows += [("in all", one) for one in found.figures]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(found.users),
            "dagster/column_schema": COLUMNS,
            "months": table([_record(name, one) for name, one in rows]),
            "summary": dg.MetadataValue.md(_markdown(rows)),
            "largest_changes": table(
                [
                    {"user_id": each.user_id, "currency": each.currency, "by_cents": each.by_cents}
                    for each in found.largest
                ]
            ),
            **_numbers(found),
            **({"unused_rate_cards": list(found.unused_cards)} if found.unused_cards else {}),
        }
    )


def _numbers(found: Simulation) -> dict[str, int]:
    """Return the figures of all months by currency, which the UI plots from one simulation to the next."""
    return {f"{one.currency}_{name}": value for one in found.figures for name, value in _changes(one).items()}


def _record(month: str, one: Figures) -> dict[str, str | int]:
    return {"month": month, "currency": one.currency, "users": one.users, **_changes(one)}


def _changes(one: Figures) -> dict[str, int]:
    return {
        "before_cents": one.before_cents,
        "after_cents": one.after_cents,
        "pay_more": one.more.users,
        "pay_less": one.less.users,
        "p50_cents": one.p50_cents,
        "p95_cents": one.p95_cents,
    }


def _markdown(rows: list[tuple[str, Figures]]) -> str:
    lines = [
        "| month | users | before | after | pay more | pay less | p50 | p95 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for month, one in rows:
        before, after, median, high = (
            format_money(cents, one.currency, grouping=True)
            for cents in (one.before_cents, one.after_cents, one.p50_cents, one.p95_cents)
        )
        counts = f"{one.more.users:,} | {one.less.users:,}"
        lines.append(f"| {month} | {one.users:,} | {before} | {after} | {counts} | {median} | {high} |")
    return "\n".join(lines)
