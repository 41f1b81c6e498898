"""`raw_usage`: the month's usage rows, frozen."""

import dagster as dg

from spell_billing.core.late import LATE_USAGE_MONTHS
from spell_billing.invoicing.guards import source_warnings
from spell_billing.invoicing.progress import Progress
from spell_billing.invoicing.usage_versions import (
    earlier_versions,
    past_of,
    pinned_version,
    start_over,
    version_before,
)
from spell_billing.orchestration.assets import common
from spell_billing.orchestration.assets.external import PLATFORM
from spell_billing.orchestration.resources import LedgerResource, UsageResource

COLUMNS = common.table_schema(
    ("id", "string or int", "The row's id in usage_counters"),
    ("user_id", "string", "The platform's user"),
    ("cost_cents", "int or decimal", "Exact cost of the call in cents; negative for a refund"),
    ("created_at", "timestamp (UTC)", "When the call was made"),
)


@common.month_asset(
    deps=PLATFORM,
    kinds={"parquet", "sql"},
    tags={"spell_billing/step": "freeze"},
    code_version="1",
    metadata={"dagster/column_schema": COLUMNS},
    description=(
        "The rows of `usage_counters` of one closed month, with its plans and prices, read in "
        "one consistent snapshot and written to versioned Parquet with a manifest. Once billing of the month "
        "has started, its version is pinned."
    ),
)
def raw_usage(
    context: dg.AssetExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.MaterializeResult[None]:
    """Freeze the month, or keep what was frozen when it was billed."""
    with common.opened_month(context, ledger, usage) as opened:
        month, store = opened.month, opened.store
        context.log.info("Starting monthly billing process")
        first_day, last_day = month.start.date().isoformat(), month.last_day
        context.log.info(f"Processing billing for period: {first_day} to {last_day}")
        if start_over(opened.ledger, month, common.actor_of(context.run), context.log.info):
            context.log.info(f"Nothing was made of {month} at Stripe yet: it is frozen anew")
        pinned = pinned_version(opened.ledger, store, month)
        record = opened.ledger.month(month)
        earlier, missing = earlier_versions(opened.ledger, store, month)
        before, past = version_before(opened.ledger, store, month), past_of(opened.ledger, store, month)
        if pinned is None:
            rows = Progress("rows frozen", None, context.log.info)
            frozen = store.freeze(
                usage.source(),
                month,
                late_for=earlier,
                past=past,
                on_progress=rows.reached,
                on_wait=context.log.warning,
            )
            store.prune(month, keep={record.usage_version} if record is not None else set())
        else:
            store.verify(pinned)
            frozen = pinned
            context.log.info(f"{month} was billed from {pinned.version}, which is intact and kept")
        for of, why in missing.items():
            context.log.warning(f"Late usage of {of} is not looked for. {why}")
        warnings = source_warnings(frozen, before)
        for warning in warnings:
            context.log.warning(warning)
        manifest = frozen.manifest
        late = manifest.late.months if manifest.late else ()
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": manifest.frozen.calls,
                "dagster/column_schema": COLUMNS,
                "calls": manifest.frozen.calls,
                **common.usage_metadata(manifest.frozen.cost_cents),
                "bad_rows": manifest.bad_rows.count,
                "earlier_bad_rows": manifest.earlier_bad_rows.count,
                "future_rows": manifest.outside.future,
                "rows_before_first_month": manifest.outside.before_first,
                "warnings": " ".join(warnings) or "none",
                "version": frozen.version,
                "frozen_at": manifest.frozen_at.isoformat(),
                "month": str(month),
                "dagster/uri": frozen.uri,
                **common.overview_link(month),
                "late_usage": common.table(
                    [
                        {
                            "month": str(item.month),
                            "users": item.users,
                            "calls": item.totals.calls,
                            "usage_cents": str(item.totals.cost_cents),
                        }
                        for item in late
                    ]
                ),
                "late_usage_checked_months": f"{', '.join(manifest.late_checked) or 'none'} "
                f"(of the last {LATE_USAGE_MONTHS})",
                "late_usage_not_checked": ", ".join(missing) or "none",
            }
        )
