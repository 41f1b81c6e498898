"""What the four assets and their checks share: the run's month, opened; who acts; metadata."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import dagster as dg
from sqlalchemy.exc import DBAPIError

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.money import plain, round_half_up
from spell_billing.core.month import Month
from spell_billing.invoicing.usage_versions import version_to_draft
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.privileges import refusal
from spell_billing.ledger.rows import Actor
from spell_billing.orchestration.partitions import MONTHLY, billable_month
from spell_billing.orchestration.resources import LedgerResource, UsageResource
from spell_billing.orchestration.unstable import OWNERS
from spell_billing.settings.billing import Settings
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.store import UsageStore

ACTOR_TAG = "spell_billing/actor"


def month_asset(**arguments: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Define an asset of the billing job, with a partition for each month, by the arguments of `dg.asset`."""
    define: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
        partitions_def=MONTHLY, group_name="monthly_billing", owners=OWNERS, **arguments
    )
    return define


@dataclass(frozen=True)
class OpenedMonth:
    """The month of a run, which may be billed; the ledger, open until the step ends; the frozen usage."""

    month: Month
    ledger: Ledger
    store: UsageStore

    @cached_property
    def frozen(self) -> FrozenUsage:
        """The version that the month is drafted from.

        Raises:
            UsageError: when nothing is frozen yet, or the pinned version is not in the store.
        """
        return version_to_draft(self.ledger, self.store, self.month)


@contextmanager
def opened_month(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
    ledger: LedgerResource,
    usage: UsageResource,
) -> Iterator[OpenedMonth]:
    """Open the run's month for the length of a step.

    Raises:
        dagster.Failure: as `failures`.
    """
    with failures():
        month = billable_month(context)
        with ledger.open() as opened:
            yield OpenedMonth(month, opened, usage.store())


@contextmanager
def without_collection() -> Iterator[None]:
    """Look for no garbage meanwhile: drafts make no cycles, and looking takes a fifth of their time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def failures() -> Iterator[None]:
    """Turn an error into a failure that says what to do and whether it passes; Dagster does not retry it."""
    try:
        yield
    except (SpellBillingError, DBAPIError) as caught:
        database = Settings.from_environment().database
        error = refusal(caught, database) if isinstance(caught, DBAPIError) else caught
        raise dg.Failure(
            description=str(error),
            metadata={"remedy": error.remedy, "transient": error.transient},
            allow_retries=False,
        ) from caught


def runs_too(run: dg.DagsterRun, asset: dg.AssetsDefinition) -> bool:
    """Return whether a run of the job also materializes this asset: it may be of others alone, or a retry."""
    assets, steps = run.asset_selection, run.step_keys_to_execute
    return (assets is None or asset.key in assets) and (steps is None or asset.op.name in steps)


def actor_of(run: dg.DagsterRun) -> Actor:
    """Name who launched a run: the command line's user, a schedule, a backfill, or a person in the UI."""
    tags = run.tags
    if ACTOR_TAG in tags:
        return Actor(tags[ACTOR_TAG], run.run_id)
    for tag, kind in (
        ("dagster/schedule_name", "schedule"),
        ("dagster/sensor_name", "sensor"),
        ("dagster/backfill", "backfill"),
        ("user", "user"),
    ):
        if tag in tags:
            return Actor(f"{kind} {tags[tag]}", run.run_id)
    return Actor("dagster", run.run_id)


def usage_metadata(amount: Decimal) -> dict[str, int | str]:
    """Return a cost as metadata: whole cents, which the UI plots, and the exact text where there is more."""
    whole = round_half_up(amount)
    exact = {} if whole == amount else {"usage_cents_exact": plain(amount)}
    return {"usage_cents": whole, **exact}


def overview_link(month: Month) -> dict[str, dg.UrlMetadataValue]:
    """Return the link to the month's page of the overview; none where SPELL_BILLING_PUBLIC_URL is not set."""
    address = Settings.from_environment().public_url
    return {} if address is None else {"overview": dg.MetadataValue.url(f"{address}/billing/{month}")}


def table_schema(*columns: tuple[str, str, str]) -> dg.TableSchema:
    """Return a column schema from names, types and descriptions."""
    return dg.TableSchema(
        columns=[dg.TableColumn(name, kind, description=text) for name, kind, text in columns]
    )


def table(records: list[dict[str, Any]]) -> dg.TableMetadataValue | str:
    """Return rows as a table that the UI shows; the text `none` where there are no rows."""
    return dg.MetadataValue.table([dg.TableRecord(row) for row in records]) if records else "none"
