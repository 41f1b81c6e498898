"""What the four assets share: their Dagster attributes, who acts, and how an error becomes a failure."""

from decimal import Decimal
from typing import Any, TypedDict

import dagster as dg

from spell_billing.core.money import plain, round_half_up
from spell_billing.core.month import Month
from spell_billing.ledger.rows import Actor
from spell_billing.orchestration.partitions import MONTHLY
from spell_billing.orchestration.unstable import OWNERS
from spell_billing.settings.billing import Settings

ACTOR_TAG = "spell_billing/actor"
GROUP = "monthly_billing"


class Common(TypedDict):
    """Arguments that every asset has in common."""

    partitions_def: dg.PartitionsDefinition[str]
    group_name: str
    owners: list[str]


COMMON: Common = {"partitions_def": MONTHLY, "group_name": GROUP, "owners": OWNERS}


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
    """Give a cost as metadata: whole cents, which the UI plots, and the exact text of one with a fraction."""
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


def period(month: Month) -> str:
    """Name the billing period by its first and last day."""
    return f"{month.start.date().isoformat()} to {month.last_day}"
