"""The asset checks. See https://docs.dagster.io/guides/test/asset-checks.

Each recomputes its sums with other code than the asset: database against Parquet, pyarrow against DuckDB,
SQL against both.
"""

import inspect
from collections.abc import Callable
from decimal import Decimal

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from spell_billing.core.errors import IntegrityError, SpellBillingError
from spell_billing.core.money import format_amounts, plain
from spell_billing.core.outcomes import UNDONE
from spell_billing.invoicing.guards import bad_rows_text, source_warnings, what_is_unsound
from spell_billing.invoicing.reconcile_month import RECONCILED, reconcile_month
from spell_billing.invoicing.review_month import approve_command, in_words
from spell_billing.invoicing.usage_versions import version_before
from spell_billing.ledger.reviews import read_review
from spell_billing.orchestration.assets.common import OpenedMonth, actor_of, opened_month, usage_metadata
from spell_billing.orchestration.assets.invoice_drafts import invoice_drafts
from spell_billing.orchestration.assets.raw_usage import raw_usage
from spell_billing.orchestration.assets.stripe_invoices import stripe_invoices
from spell_billing.orchestration.assets.user_usage import user_usage
from spell_billing.orchestration.resources import LedgerResource, StripeResource, UsageResource
from spell_billing.usage.amounts import exact_sum
from spell_billing.usage.frozen import USER_ITEMS_FILE, FrozenUsage
from spell_billing.usage.tables import is_rising
from spell_billing.usage.user_usage import charged_totals, open_user_usage

_NAMED = 20


def _month_check(
    asset: dg.AssetsDefinition, *, blocking: bool = False
) -> Callable[[Callable[[OpenedMonth], dg.AssetCheckResult]], dg.AssetChecksDefinition]:
    """Define a check of an asset by what it makes of the run's month."""

    def define(check: Callable[[OpenedMonth], dg.AssetCheckResult]) -> dg.AssetChecksDefinition:
        text = inspect.getdoc(check)

        @dg.asset_check(asset=asset, name=check.__name__, description=text, blocking=blocking)
        def checked(
            context: dg.AssetCheckExecutionContext, usage: UsageResource, ledger: LedgerResource
        ) -> dg.AssetCheckResult:
            with opened_month(context, ledger, usage) as opened:
                return check(opened)

        return checked

    return define


@_month_check(raw_usage, blocking=True)
def no_bad_rows(opened: OpenedMonth) -> dg.AssetCheckResult:
    """Every row of the month has a user, an exact cost and a readable time."""
    text = bad_rows_text(opened.frozen)
    return dg.AssetCheckResult(
        passed=not text,
        description=text or "Every row can be billed.",
        metadata={"bad_rows": opened.frozen.manifest.bad_rows.count},
    )


@_month_check(raw_usage)
def source_in_order(opened: OpenedMonth) -> dg.AssetCheckResult:
    """Nothing in the source asks for a look: rows with a future time, bad ones in billed months."""
    before = version_before(opened.ledger, opened.store, opened.month)
    warnings = source_warnings(opened.frozen, before)
    return dg.AssetCheckResult(
        passed=not warnings,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(warnings) or "Nothing looks odd.",
        metadata={"warnings": len(warnings)},
    )


@_month_check(raw_usage, blocking=True)
def frozen_equals_source(opened: OpenedMonth) -> dg.AssetCheckResult:
    """The frozen rows are what the database itself counted and summed in the same snapshot."""
    frozen, control = opened.frozen.manifest.frozen, opened.frozen.manifest.control
    return dg.AssetCheckResult(
        passed=frozen == control,
        description=(
            f"Frozen: {frozen.calls:,} calls, {plain(frozen.cost_cents)} cents; "
            f"the database counted {control.calls:,} calls, {plain(control.cost_cents)} cents."
        ),
        metadata={"calls": frozen.calls, **usage_metadata(frozen.cost_cents)},
    )


@_month_check(user_usage, blocking=True)
def user_usage_equals_raw_usage(opened: OpenedMonth) -> dg.AssetCheckResult:
    """The sums over users are the sums over rows, calls and cents, with each user once, in order."""
    try:
        # Not pq.read_table, which loads pandas.
        with open_user_usage(opened.frozen) as file:
            table = file.read(["user_id", "calls", "cost_cents"])
        items, control = _items_are_usage(opened.frozen, table), charged_totals(opened.frozen)
    except IntegrityError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    calls = pc.sum(table["calls"]).as_py() or 0
    cost_cents = sum((exact_sum(chunk) for chunk in table["cost_cents"].chunks), start=Decimal(0))
    each_once = is_rising(table["user_id"])
    return dg.AssetCheckResult(
        passed=(calls, cost_cents) == (control.calls, control.cost_cents) and each_once and items,
        description=(
            f"{table.num_rows:,} users{'' if each_once else ' (repeated or out of order)'}, "
            f"{calls:,} calls, {plain(cost_cents)} cents; "
            f"{'rows' if opened.frozen.manifest.rates is None else 'priced'}: {control.calls:,} calls, "
            f"{plain(control.cost_cents)} cents."
            f"{'' if items else ' The items of the users do not add up to them.'}"
        ),
        metadata={"users": table.num_rows, "calls": calls, **usage_metadata(cost_cents)},
    )


def _items_are_usage(frozen: FrozenUsage, users: pa.Table) -> bool:
    """Return whether each user's items, where items were frozen, add up to the user's calls and cost."""
    if frozen.manifest.items_by is None and frozen.manifest.rates is None:
        return True
    with open_user_usage(frozen, USER_ITEMS_FILE) as file:
        items = file.read(["user_id", "calls", "cost_cents"])
    sums = items.group_by("user_id").aggregate([("calls", "sum"), ("cost_cents", "sum")]).sort_by("user_id")
    columns = ("user_id", "calls_sum", "cost_cents_sum")
    return all(
        sums[found].cast(users.schema.field(name).type).equals(users[name])
        for found, name in zip(columns, users.column_names, strict=True)
    )


@_month_check(invoice_drafts, blocking=True)
def drafts_equal_user_usage(opened: OpenedMonth) -> dg.AssetCheckResult:
    """The ledger's bills hold every call and cent that was frozen, and give away no more than they may."""
    users, calls, usage_cents = opened.ledger.drafted_usage(opened.month)
    unsound = opened.ledger.read(what_is_unsound, opened.month)
    control = charged_totals(opened.frozen)
    sums = (
        f"{users:,} bills hold {calls:,} calls, {plain(usage_cents)} cents; "
        f"frozen: {control.calls:,} calls, {plain(control.cost_cents)} cents."
    )
    return dg.AssetCheckResult(
        passed=(calls, usage_cents) == (control.calls, control.cost_cents) and unsound is None,
        description=unsound or sums,
        metadata={"users": users, "calls": calls, **usage_metadata(usage_cents)},
    )


@_month_check(invoice_drafts)
def month_is_plausible(opened: OpenedMonth) -> dg.AssetCheckResult:
    """The month and the past it builds on are as expected, or a person approved these drafts.

    Where not, the run goes on, `stripe_invoices` sends nothing, and the sensor `month_in_review` alerts.
    """
    review = opened.ledger.read(read_review, opened.month)
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


@_month_check(stripe_invoices)
def every_user_invoiced(opened: OpenedMonth) -> dg.AssetCheckResult:
    """Nobody with a bill is without an invoice."""
    month, ledger = opened.month, opened.ledger
    groups = [group for group in ledger.group_totals(month) if group.state in UNDONE]
    named = [
        f"{group.users:,} {group.state} ({group.reason or 'not sent yet'}): "
        + ", ".join(ledger.first_users(month, group, _NAMED))
        for group in groups
    ]
    return dg.AssetCheckResult(
        passed=not groups,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(named) or "Every user with a bill is invoiced.",
        metadata={
            "users": sum(group.users for group in groups),
            "total_cents": sum(group.total_cents for group in groups),
        },
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
        try:
            result = stripe.work(
                opened.ledger,
                lambda gateway: reconcile_month(
                    opened.ledger, opened.store, gateway, opened.month, actor_of(context.run)
                ),
            )
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
