"""A run's month, opened for an asset or a check: what it reads, and how its errors appear in Dagster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import dagster as dg
from sqlalchemy.exc import DBAPIError

from spell_billing.core.errors import SpellBillingError
from spell_billing.core.month import Month
from spell_billing.invoicing.usage_versions import version_to_draft
from spell_billing.ledger.ledger import Ledger
from spell_billing.orchestration.partitions import billable_month
from spell_billing.orchestration.resources import LedgerResource, UsageResource
from spell_billing.settings.databases import refused_statement
from spell_billing.usage.contract import FrozenUsage
from spell_billing.usage.store import UsageStore


@dataclass(frozen=True)
class OpenedMonth:
    """The month of a run, the ledger, and the store of frozen usage.

    Attributes:
        month: May be billed: it is closed, and not before the first billed month.
        ledger: Open until the step ends.
        store: Of frozen usage.
    """

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
        dagster.Failure: for every error of ours inside: it says what to do and whether it passes by itself.
            Dagster does not retry it.
    """
    with failures():
        month = billable_month(context)
        with ledger.open() as opened:
            yield OpenedMonth(month, opened, usage.store())


@contextmanager
def failures() -> Iterator[None]:
    """Turn an error into a failure that says what to do and whether it passes; Dagster does not retry it."""
    try:
        yield
    except SpellBillingError as error:
        raise _failure(error) from error
    except DBAPIError as error:
        raise _failure(refused_statement(error)) from error


def _failure(error: SpellBillingError) -> dg.Failure:
    return dg.Failure(
        description=str(error),
        metadata={"remedy": error.remedy, "transient": error.transient},
        allow_retries=False,
    )
