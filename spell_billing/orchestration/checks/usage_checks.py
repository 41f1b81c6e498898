"""Checks of `raw_usage` and `user_usage`: every row can be billed, no cent was lost, nothing looks odd."""

from decimal import Decimal

import dagster as dg
import pyarrow.compute as pc

from spell_billing.core.errors import IntegrityError
from spell_billing.core.money import plain
from spell_billing.invoicing.guards import bad_rows_text, source_warnings
from spell_billing.invoicing.usage_versions import version_before
from spell_billing.orchestration.assets.common import usage_metadata
from spell_billing.orchestration.assets.opened import opened_month
from spell_billing.orchestration.assets.raw_usage import raw_usage
from spell_billing.orchestration.assets.user_usage import user_usage
from spell_billing.orchestration.resources import LedgerResource, UsageResource
from spell_billing.usage.amounts import exact_sum
from spell_billing.usage.tables import is_rising
from spell_billing.usage.user_usage import open_user_usage


@dg.asset_check(asset=raw_usage, blocking=True)
def no_bad_rows(
    context: dg.AssetCheckExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    """Every row of the month has a user, an exact cost and a readable time."""
    with opened_month(context, ledger, usage) as opened:
        frozen = opened.frozen
        text = bad_rows_text(frozen)
        return dg.AssetCheckResult(
            passed=not text,
            description=text or "Every row can be billed.",
            metadata={"bad_rows": frozen.manifest.bad_rows.count},
        )


@dg.asset_check(asset=raw_usage)
def source_in_order(
    context: dg.AssetCheckExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    """Nothing in the source asks for a look: rows with a future time, bad ones in billed months."""
    with opened_month(context, ledger, usage) as opened:
        before = version_before(opened.ledger, opened.store, opened.month)
        warnings = source_warnings(opened.frozen, before)
        return dg.AssetCheckResult(
            passed=not warnings,
            severity=dg.AssetCheckSeverity.WARN,
            description=" ".join(warnings) or "Nothing looks odd.",
            metadata={"warnings": len(warnings)},
        )


@dg.asset_check(asset=raw_usage, blocking=True)
def frozen_equals_source(
    context: dg.AssetCheckExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    """The frozen rows are what the database itself counted and summed in the same snapshot."""
    with opened_month(context, ledger, usage) as opened:
        manifest = opened.frozen.manifest
        frozen, control = manifest.frozen, manifest.control
        return dg.AssetCheckResult(
            passed=frozen == control,
            description=(
                f"Frozen: {frozen.calls:,} calls, {plain(frozen.cost_cents)} cents; "
                f"the database counted {control.calls:,} calls, {plain(control.cost_cents)} cents."
            ),
            metadata={"calls": frozen.calls, **usage_metadata(frozen.cost_cents)},
        )


@dg.asset_check(asset=user_usage, blocking=True)
def user_usage_equals_raw_usage(
    context: dg.AssetCheckExecutionContext, usage: UsageResource, ledger: LedgerResource
) -> dg.AssetCheckResult:
    """The sums over users are the sums over rows, calls and cents, with each user once, in order."""
    with opened_month(context, ledger, usage) as opened:
        frozen = opened.frozen
        try:
            # Not pq.read_table, which loads pandas.
            with open_user_usage(frozen) as file:
                table = file.read(["user_id", "calls", "cost_cents"])
        except IntegrityError as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        calls = pc.sum(table["calls"]).as_py() or 0
        cost_cents = sum((exact_sum(chunk) for chunk in table["cost_cents"].chunks), start=Decimal(0))
        each_once = is_rising(table["user_id"])
        control = frozen.manifest.control
        passed = (calls, cost_cents) == (control.calls, control.cost_cents) and each_once
        return dg.AssetCheckResult(
            passed=passed,
            description=(
                f"{table.num_rows:,} users{'' if each_once else ' (repeated or out of order)'}, "
                f"{calls:,} calls, {plain(cost_cents)} cents; "
                f"rows: {control.calls:,} calls, {plain(control.cost_cents)} cents."
            ),
            metadata={"users": table.num_rows, "calls": calls, **usage_metadata(cost_cents)},
        )
