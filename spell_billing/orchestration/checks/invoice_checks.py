"""Checks of `stripe_invoices`: everyone with a bill has an invoice, and Stripe has what the ledger has."""

import asyncio

import dagster as dg

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.money import format_amounts
from spell_billing.core.outcomes import UNDONE
from spell_billing.invoicing.findings import Reconciliation
from spell_billing.invoicing.reconcile_month import RECONCILED, reconcile_month
from spell_billing.orchestration.assets.common import actor_of
from spell_billing.orchestration.assets.opened import opened_month
from spell_billing.orchestration.assets.stripe_invoices import stripe_invoices
from spell_billing.orchestration.resources import LedgerResource, StripeResource, UsageResource

_NAMED = 20


@dg.asset_check(asset=stripe_invoices)
def every_user_invoiced(
    context: dg.AssetCheckExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    """Nobody with a bill is without an invoice."""
    with opened_month(context, ledger, usage) as opened:
        month, open_ledger = opened.month, opened.ledger
        groups = [group for group in open_ledger.group_totals(month) if group.state in UNDONE]
        named = [
            f"{group.users:,} {group.state} ({group.reason or 'not sent yet'}): "
            + ", ".join(open_ledger.first_users(month, group, _NAMED))
            for group in groups
        ]
        users = sum(group.users for group in groups)
        return dg.AssetCheckResult(
            passed=not users,
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(named) or "Every user with a bill is invoiced.",
            metadata={"users": users, "total_cents": sum(group.total_cents for group in groups)},
        )


@dg.asset_check(asset=stripe_invoices)
def stripe_matches_ledger(
    context: dg.AssetCheckExecutionContext,
    usage: UsageResource,
    ledger: LedgerResource,
    stripe: StripeResource,
) -> dg.AssetCheckResult:
    """Frozen usage, ledger and Stripe agree to the cent, both ways.

    When nothing has changed in the ledger since they last agreed, Stripe is not asked again.
    """
    with opened_month(context, ledger, usage) as opened:
        if opened.ledger.last_action(opened.month) == RECONCILED:
            return dg.AssetCheckResult(passed=True, description="Unchanged since they last agreed.")

        async def ask() -> Reconciliation:
            async with stripe.connect(opened.ledger) as gateway:
                return await reconcile_month(
                    opened.ledger, opened.store, gateway, opened.month, actor_of(context.run)
                )

        try:
            result = asyncio.run(ask())
        except SpellBillingError as problem:
            # The invoices stand; only the proof is missing. The run itself must not fail for it.
            return dg.AssetCheckResult(passed=False, description=f"Not compared: {problem}")
        differences = result.differences
        return dg.AssetCheckResult(
            passed=not differences,
            description="; ".join(
                f"{each.user_id}: {each.kind} ({each.expected} / {each.found}). {each.remedy}"
                for each in differences[:_NAMED]
            )
            or f"{result.stripe_invoices:,} invoices of {format_amounts(result.stripe_by_currency)} agree.",
            metadata={
                "differences": len(differences),
                "ledger_cents": result.ledger_cents,
                "stripe_cents": result.stripe_cents,
                "stripe_invoices": result.stripe_invoices,
            },
        )
