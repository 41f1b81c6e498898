"""The jobs over months: billing, and the files for finance. See https://docs.dagster.io/guides/build/jobs."""

import dagster as dg

from spell_billing.orchestration.unstable import OWNERS

MAX_RUNTIME_SECONDS = 12 * 3600
"""Far above the longest month (1 M users at 25 invoices a second take 11 hours 7 minutes)."""

monthly_billing = dg.define_asset_job(
    "monthly_billing",
    selection=dg.AssetSelection.groups("monthly_billing"),
    owners=OWNERS,
    description="Freezes a closed month's usage, drafts every user's invoice, and sends them to Stripe once.",
    tags={
        "dagster/max_runtime": str(MAX_RUNTIME_SECONDS),
        # A failed step says what an operator must fix; only a worker that died is run again by itself.
        "dagster/retry_on_asset_or_op_failure": "false",
    },
)

finance_exports = dg.define_asset_job(
    "finance_exports",
    selection=dg.AssetSelection.groups("finance"),
    owners=OWNERS,
    description="Writes a month's bills, payments and journal as Parquet and CSV files, as they are now.",
    tags={"dagster/retry_on_asset_or_op_failure": "false"},
)
