"""`invoice_drafts`: every user's invoice as the ledger will send it: the preview. Stripe is not called."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import dagster as dg

from spell_billing.core.money import exact_sum
from spell_billing.core.outcomes import REMEDIES, State
from spell_billing.invoicing.changed_accounts import hold_changed_accounts, in_words
from spell_billing.invoicing.draft_month import draft_month
from spell_billing.invoicing.review_month import review_month
from spell_billing.invoicing.usage_versions import with_what_came_since
from spell_billing.ledger.totals import GroupTotals
from spell_billing.orchestration.assets.common import (
    actor_of,
    month_asset,
    opened_month,
    overview_link,
    table,
    table_schema,
    usage_metadata,
    without_collection,
)
from spell_billing.orchestration.assets.external import billing_accounts, billing_plans
from spell_billing.orchestration.assets.user_usage import user_usage
from spell_billing.orchestration.resources import LedgerResource, UsageResource
from spell_billing.settings.billing import Settings
from spell_billing.settings.review import ReviewSettings

COLUMNS = table_schema(
    ("month", "string", "The billing period, as 2026-10"),
    ("user_id", "string", "The platform's user"),
    ("generation", "int", "1; higher after a void"),
    ("state", "string", "planned, skipped, held, failed, or what became of it at Stripe"),
    ("reason", "string", "Why there is no invoice"),
    ("stripe_customer_id", "string", "The customer at Stripe"),
    ("currency", "string", "Three lower-case letters"),
    ("calls", "int", "Calls of the month"),
    ("usage_cents", "decimal", "Their exact cost"),
    ("total_cents", "int", "The invoice's total in whole cents"),
    ("lines", "json", "The frozen invoice lines"),
)

LEDGER_TABLE = "ledger_invoices"


@month_asset(
    deps=[user_usage, billing_accounts, billing_plans],
    kinds={"sql", "python"},
    tags={"spell_billing/step": "draft"},
    code_version="1",
    metadata={"dagster/column_schema": COLUMNS, "dagster/table_name": LEDGER_TABLE},
    description=(
        "One draft per user in the ledger: lines, total, or the reason why there is none. Drafts are written "
        "anew until billing starts, and reviewed; after that only users without an invoice are drafted again."
    ),
)
def invoice_drafts(
    context: dg.AssetExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.MaterializeResult[None]:
    """Draft the month into the ledger."""
    with opened_month(context, ledger, usage) as opened:
        open_ledger, store, month = opened.ledger, opened.store, opened.month
        with (
            open_ledger.session(
                month, actor_of(context.run), on_wait=context.log.info, drafting=True
            ) as session,
            open_ledger.exclusive(on_wait=context.log.info),
            without_collection(),
        ):
            source = usage.source()
            accounts = cache(source.accounts)
            if session.has_begun() and (changed_accounts := hold_changed_accounts(session, accounts)):
                context.log.warning(f"Bills are drafted again because {in_words(changed_accounts)}.")
            frozen, missing = with_what_came_since(open_ledger, session, store, source, opened.frozen)
            for why in missing.values():
                context.log.warning(f"Rows that came since are not looked for. {why}")
            settings = ReviewSettings.from_environment()
            policy = Settings.from_environment().policy
            changed = draft_month(session, source, frozen, settings.hold_rules, policy, accounts=accounts)
            groups = open_ledger.group_totals(month)
            review = review_month(
                open_ledger,
                session,
                store,
                frozen,
                accounts,
                groups=groups,
                rules=settings.review_rules,
                approvals_needed=settings.approvals,
            )
        context.log.info("Drafts written" if changed else "All drafts stand as they were")
        return dg.MaterializeResult(
            metadata={
                **totals_metadata(groups),
                "version": frozen.version,
                **overview_link(month),
                "review_findings": len(review.findings) if review else 0,
            }
        )


def totals_metadata(groups: Sequence[GroupTotals]) -> dict[str, Any]:
    """Return a month's totals as metadata: numbers to plot, and who has no invoice and why."""
    states = (State.SKIPPED, State.HELD, State.FAILED, State.PARKED)
    users = sum(group.users for group in groups)
    return {
        "dagster/row_count": users,
        "dagster/column_schema": COLUMNS,
        "users": users,
        "calls": sum(group.calls for group in groups),
        **usage_metadata(exact_sum(*(group.usage_cents for group in groups))),
        "total_cents": sum(group.total_cents for group in groups if group.total_cents > 0),
        **{each.value: sum(group.users for group in groups if group.state is each) for each in states},
        "without_invoice": table(
            [
                {
                    "state": str(group.state),
                    "reason": str(group.reason),
                    "users": group.users,
                    "total_cents": group.total_cents,
                    "remedy": REMEDIES[group.reason],
                }
                for group in groups
                if group.reason is not None
            ]
        ),
    }
