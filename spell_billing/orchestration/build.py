"""Builds what Dagster loads; tests, the command line and special environments exchange resources here."""

from collections.abc import Mapping, Sequence
from functools import cache

import dagster as dg

from spell_billing.orchestration import checks, schedules
from spell_billing.orchestration.assets import external, finance
from spell_billing.orchestration.assets.invoice_drafts import invoice_drafts
from spell_billing.orchestration.assets.price_simulation import price_simulation
from spell_billing.orchestration.assets.raw_usage import raw_usage
from spell_billing.orchestration.assets.stripe_invoices import stripe_invoices
from spell_billing.orchestration.assets.user_usage import user_usage
from spell_billing.orchestration.jobs import finance_exports, monthly_billing
from spell_billing.orchestration.logs import console
from spell_billing.orchestration.readiness_job import payment_readiness
from spell_billing.orchestration.resources import AlertResource, LedgerResource, StripeResource, UsageResource
from spell_billing.orchestration.sensors.ended_runs import billing_checks_failed, billing_run_failed
from spell_billing.orchestration.sensors.exchange import events_out, mail, payments
from spell_billing.orchestration.sensors.months import month_in_review, month_unbilled, users_not_invoiced
from spell_billing.orchestration.sensors.retry_leftovers import retry_leftovers
from spell_billing.orchestration.sensors.spending import spend_alerts
from spell_billing.orchestration.unstable import with_source_code_references


@cache
def _assets() -> Sequence[dg.AssetsDefinition | dg.AssetSpec]:
    return with_source_code_references(
        [
            *external.PLATFORM,
            *(raw_usage, user_usage, invoice_drafts, stripe_invoices),
            *(external.stripe_account, price_simulation),
            *(finance.invoices_export, finance.payments_export, finance.journal),
        ]
    )


def build_defs(*, resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """Return fresh definitions.

    Args:
        resource_overrides: Resources to use instead of the usual ones, by key: `ledger`, `usage`, `stripe`,
            `alerts`.

    Raises:
        ValueError: for a key that no asset uses.
    """
    resources: dict[str, object] = {
        "ledger": LedgerResource(),
        "usage": UsageResource(),
        "stripe": StripeResource(),
        "alerts": AlertResource(),
    }
    unknown = set(resource_overrides or ()) - set(resources)
    if unknown:
        raise ValueError(f"no such resource: {', '.join(sorted(unknown))}; there are {', '.join(resources)}")
    return dg.Definitions(
        assets=_assets(),
        asset_checks=dg.load_asset_checks_from_modules([checks, finance]),
        jobs=[monthly_billing, payment_readiness, finance_exports],
        schedules=[
            schedules.monthly_billing_schedule,
            schedules.payment_readiness_schedule,
            schedules.finance_exports_schedule,
        ],
        sensors=[
            billing_run_failed,
            billing_checks_failed,
            users_not_invoiced,
            month_in_review,
            month_unbilled,
            retry_leftovers,
            payments,
            mail,
            events_out,
            spend_alerts,
        ],
        # Most steps are short, and a process each would cost 2-3 s of imports. An asset that is launched
        # alone could not even start in one: in-memory outputs do not reach it.
        executor=dg.in_process_executor,
        loggers={"console": console},
        resources={**resources, **(resource_overrides or {}), "io_manager": dg.mem_io_manager},
    )
