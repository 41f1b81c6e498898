"""`user_usage`: calls and exact cost per user."""

import dagster as dg

from spell_billing.orchestration.assets import common
from spell_billing.orchestration.assets.raw_usage import raw_usage
from spell_billing.orchestration.resources import LedgerResource, UsageResource
from spell_billing.usage.aggregate import aggregate

COLUMNS = common.table_schema(
    ("user_id", "string", "The platform's user"),
    ("calls", "int", "Rows of the user in the month, refunds included"),
    ("cost_cents", "int or decimal", "Their exact cost in cents"),
)


@common.month_asset(
    deps=[raw_usage],
    kinds={"parquet", "duckdb"},
    tags={"spell_billing/step": "aggregate"},
    code_version="1",
    metadata={"dagster/column_schema": COLUMNS},
    description="The frozen month summed per user: calls and exact cost, aggregated out of core by DuckDB.",
)
def user_usage(
    context: dg.AssetExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.MaterializeResult[None]:
    """Aggregate the frozen rows."""
    with common.opened_month(context, ledger, usage) as opened:
        frozen = opened.frozen
        # Equal sums do not prove that the rows are what was frozen: they may have changed users.
        opened.store.verify(frozen)
        totals = aggregate(frozen)
        context.log.info(f"Found {totals.users} users with usage")
        for card in totals.unused_cards:
            context.log.warning(f"{card} prices nothing in {opened.month}: no call has its plan and item.")
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": totals.users,
                "dagster/column_schema": COLUMNS,
                "users": totals.users,
                "calls": totals.totals.calls,
                **common.usage_metadata(totals.totals.cost_cents),
                "version": frozen.version,
                **({"unused_rate_cards": list(totals.unused_cards)} if totals.unused_cards else {}),
                **({"line_items_by": frozen.manifest.items_by} if frozen.manifest.items_by else {}),
                "dagster/uri": frozen.uri,
                **common.overview_link(opened.month),
                "largest_users": common.table(
                    [
                        {"user_id": user.user_id, "calls": user.calls, "cost_cents": str(user.cost_cents)}
                        for user in totals.largest
                    ]
                ),
            }
        )
