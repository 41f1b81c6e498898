"""`stripe_invoices`: the drafts as finalized invoices at Stripe. The only asset with effects outside."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg

from spell_billing.core.errors import SettingsError
from spell_billing.core.latencies import together
from spell_billing.core.outcomes import INVOICED, TO_DRIVE, UNDONE, State
from spell_billing.invoicing.bill_month import Pinning, bill_month
from spell_billing.invoicing.changed_accounts import hold_changed_accounts
from spell_billing.invoicing.changed_accounts import in_words as changed_in_words
from spell_billing.invoicing.gateway import Gateway
from spell_billing.invoicing.guards import (
    require_drafts_equal_usage,
    require_late_usage_once,
    require_sound_bills,
)
from spell_billing.invoicing.report import BillingReport, Outcome, recorded
from spell_billing.invoicing.review_month import in_words, keeps_back
from spell_billing.invoicing.user_drafts import recorded_late_usage
from spell_billing.orchestration.assets import common
from spell_billing.orchestration.assets.invoice_drafts import LEDGER_TABLE, invoice_drafts, totals_metadata
from spell_billing.orchestration.partitions import invoiced_by_deadline
from spell_billing.orchestration.resources import LedgerResource, StripeResource, UsageResource
from spell_billing.payments.basis import require_basis
from spell_billing.reporting.status import MonthStatus, month_status
from spell_billing.settings.billing import Settings

COLUMNS = common.table_schema(
    ("stripe_invoice_id", "string", "The invoice at Stripe"),
    ("stripe_customer_id", "string", "The customer it was sent to"),
    ("user_id", "string", "The platform's user"),
    ("total_cents", "int", "The invoice's total in whole cents"),
    ("state", "string", "finalized, paid, payment_failed, uncollectible"),
)


class StripeInvoicesConfig(dg.Config):
    """What may be chosen at launch."""

    verify: bool = False
    """Ask Stripe what stands even when every user is done."""
    first: int | None = None
    """Send at most this many invoices, to look at them at Stripe; the next run sends the rest."""


@common.month_asset(
    deps=[invoice_drafts],
    kinds={"stripe", "sql"},
    tags={"spell_billing/step": "invoice", "spell_billing/effects": "stripe"},
    code_version="2",
    # A month in review is not materialized, and neither are the checks of its invoices.
    output_required=False,
    freshness_policy=invoiced_by_deadline(Settings.from_environment()),
    metadata={"dagster/column_schema": COLUMNS, "dagster/table_name": LEDGER_TABLE},
    description=(
        "One finalized invoice per user, exactly once, however often it is materialized. A month already "
        "billed sends nothing, and neither does one in review. Users who cannot be billed are named and do "
        "not stop the others."
    ),
)
def stripe_invoices(
    context: dg.AssetExecutionContext,
    config: StripeInvoicesConfig,
    usage: UsageResource,
    ledger: LedgerResource,
    stripe: StripeResource,
) -> Iterator[dg.MaterializeResult[None]]:
    """Drive the month's drafts to finalized invoices; a month in review is left as it is."""
    with common.opened_month(context, ledger, usage) as opened:
        month, open_ledger, store = opened.month, opened.ledger, opened.store
        if config.first is not None and config.first < 1:
            raise SettingsError(
                f"The run's configuration sets `first` of stripe_invoices to {config.first}.",
                remedy="Set it to 1 or more, or leave it out to send all invoices.",
            )
        with recorded(open_ledger, month, context.run.run_id, context.log) as outcome:
            stripe.check()
            # A setting that cannot be read must fail before anything is sent, not after.
            links = {**common.overview_link(month), **stripe.invoices_link(month)}
            started = time.monotonic()
            actor = common.actor_of(context.run)
            with open_ledger.session(month, actor, on_wait=context.log.info) as session:
                # A blocking check guards only its own run; this asset may be launched alone.
                require_drafts_equal_usage(session, store)
                require_sound_bills(session)
                review = keeps_back(session)
                if review is not None:
                    outcome.in_review = True
                    context.log.warning(f"{month} is in review, nothing was sent: {in_words(review)}")
                    return
                if not common.runs_too(context.run, invoice_drafts) and (
                    changed := hold_changed_accounts(session, usage.source().accounts)
                ):
                    context.log.warning(f"Bills are held because {changed_in_words(changed)}.")
                require_once = partial(require_late_usage_once, open_ledger, store, month)
                require_once()
                exclusive = partial(open_ledger.exclusive, on_wait=context.log.info)
                pinning = Pinning(session, exclusive=exclusive, require=require_once)
                groups = open_ledger.group_totals(month)
                to_drive = sum(group.users for group in groups if group.state in TO_DRIVE)
                report = BillingReport(context.log, to_drive=to_drive)

                async def bill(gateway: Gateway) -> None:
                    if not session.has_begun():
                        await require_basis(open_ledger, gateway, month, actor)
                    await bill_month(
                        session,
                        gateway,
                        report,
                        verify=config.verify,
                        first=config.first,
                        outcome=outcome,
                        pinning=pinning,
                        recorded=lambda: recorded_late_usage(opened.frozen),
                        holds_if_older=True,
                    )

                stripe.work(open_ledger, bill, biller=actor)
                status = month_status(open_ledger, month, datetime.now(UTC))
                if not status.count(UNDONE):
                    session.finish_billing()
                report.completed(outcome, open_ledger.bills(month, UNDONE))
        yield dg.MaterializeResult(
            metadata={
                **totals_metadata(status.groups),
                **links,
                **_invoice_metadata(status),
                **_run_metadata(outcome, time.monotonic() - started),
            }
        )


def _invoice_metadata(status: MonthStatus) -> dict[str, Any]:
    sums, money = status.by_currency("total_cents", INVOICED), status.money
    currencies = sorted({group.currency for group in status.groups if group.state in INVOICED})
    # A sum over currencies says little: each has one of its own, where there are several.
    apart = currencies if len(currencies) > 1 else []
    money_apart = money if len(money) > 1 else []
    return {
        "dagster/row_count": status.count(INVOICED),
        "dagster/column_schema": COLUMNS,
        "invoiced": status.count(INVOICED),
        "invoiced_cents": sum(sums.values()),
        **{f"invoiced_cents_{currency}": sums.get(currency, 0) for currency in apart},
        "paid": status.count(frozenset({State.PAID})),
        "payment_failed": status.count(frozenset({State.PAYMENT_FAILED})),
        "paid_cents": sum(each.paid_cents for each in money),
        "kept_cents": sum(each.kept_cents for each in money),
        **{f"paid_cents_{each.currency}": each.paid_cents for each in money_apart},
        **{f"kept_cents_{each.currency}": each.kept_cents for each in money_apart},
    }


def _run_metadata(outcome: Outcome, seconds: float) -> dict[str, Any]:
    requests = together(outcome.requests.values())
    return {
        "invoiced_in_this_run": outcome.invoiced,
        "unfinished": len(outcome.unfinished),
        "stripe_requests": requests.count,
        "stripe_429s": outcome.limited,
        "stripe_mean_seconds": round(requests.mean_seconds, 4),
        "stripe_p95_seconds": round(requests.quantile_seconds(0.95), 4),
        "adopted": outcome.sweep.adopted,
        "seconds": round(seconds, 1),
        "sent_nothing": outcome.sent_nothing,
    }
