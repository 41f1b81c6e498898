"""Blocking check of `invoice_drafts`: drafts, skips, holds and failures together are the month's usage."""

import dagster as dg

from spell_billing.assets.common import failures, usage_metadata
from spell_billing.assets.invoice_drafts import invoice_drafts
from spell_billing.core.money import plain
from spell_billing.invoicing.usage_versions import version_to_draft
from spell_billing.partitions import billable_month
from spell_billing.resources import LedgerResource, UsageResource


@dg.asset_check(asset=invoice_drafts, blocking=True)
def drafts_equal_user_usage(
    context: dg.AssetCheckExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    """The ledger's bills of the month hold every call and every cent that was frozen."""
    with failures():
        month = billable_month(context)
        with ledger.open() as open_ledger:
            frozen = version_to_draft(open_ledger, usage.store(), month)
            users, calls, usage_cents = open_ledger.drafted_usage(month)
        control = frozen.manifest.control
        return dg.AssetCheckResult(
            passed=(calls, usage_cents) == (control.calls, control.cost_cents),
            description=(
                f"{users:,} bills hold {calls:,} calls, {plain(usage_cents)} cents; "
                f"frozen: {control.calls:,} calls, {plain(control.cost_cents)} cents."
            ),
            metadata={"users": users, "calls": calls, **usage_metadata(usage_cents)},
        )
