"""Checks of `invoice_drafts`: they are the month's usage (blocking), and nobody has to review them first."""

import dagster as dg

from spell_billing.core.money import plain
from spell_billing.invoicing.guards import what_is_unsound
from spell_billing.invoicing.review_month import approve_command, in_words
from spell_billing.ledger.reviews import read_review
from spell_billing.orchestration.assets.common import usage_metadata
from spell_billing.orchestration.assets.invoice_drafts import invoice_drafts
from spell_billing.orchestration.assets.opened import opened_month
from spell_billing.orchestration.resources import LedgerResource, UsageResource


@dg.asset_check(asset=invoice_drafts, blocking=True)
def drafts_equal_user_usage(
    context: dg.AssetCheckExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    """The ledger's bills hold every call and cent that was frozen, and give away no more than they may."""
    with opened_month(context, ledger, usage) as opened:
        users, calls, usage_cents = opened.ledger.drafted_usage(opened.month)
        with opened.ledger.reading() as connection:
            unsound = what_is_unsound(connection, opened.month)
        control = opened.frozen.manifest.control
        return dg.AssetCheckResult(
            passed=(calls, usage_cents) == (control.calls, control.cost_cents) and unsound is None,
            description=unsound
            or (
                f"{users:,} bills hold {calls:,} calls, {plain(usage_cents)} cents; "
                f"frozen: {control.calls:,} calls, {plain(control.cost_cents)} cents."
            ),
            metadata={"users": users, "calls": calls, **usage_metadata(usage_cents)},
        )


@dg.asset_check(asset=invoice_drafts)
def month_is_plausible(
    context: dg.AssetCheckExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    """The month and the past it builds on are as expected, or a person approved these drafts.

    Where not, the run goes on, `stripe_invoices` sends nothing, and the sensor `month_in_review` alerts.
    """
    with opened_month(context, ledger, usage) as opened:
        with opened.ledger.reading() as connection:
            review = read_review(connection, opened.month)
        if review is None or not review.findings:
            return dg.AssetCheckResult(passed=True, description="Nothing is to be reviewed.")
        metadata: dict[str, int | str] = {"findings": len(review.findings), "drafts_hash": review.drafts_hash}
        if review.approval is not None:
            text = f"Approved by {review.approval.actor} ({review.approval.reason}): {in_words(review)}"
            return dg.AssetCheckResult(passed=True, description=text, metadata=metadata)
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{in_words(review)} Nothing is sent until: {approve_command(opened.month)}",
            metadata=metadata,
        )
