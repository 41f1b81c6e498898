"""Which frozen version of a month counts: the pinned one once billing has started, else the newest."""

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.invoicing.draft_month import LATE_USAGE_MONTHS
from spell_billing.ledger.ledger import Ledger
from spell_billing.usage.contract import FrozenUsage
from spell_billing.usage.store import UsageStore


def pinned_version(ledger: Ledger, store: UsageStore, month: Month) -> FrozenUsage | None:
    """Give the version that the month is billed from, or None while billing has not started.

    Raises:
        UsageError: when the ledger names a version that the store does not have.
    """
    record = ledger.month(month)
    if record is None or record.billing_started_at is None:
        return None
    return store.version(month, record.usage_version)


def version_to_draft(ledger: Ledger, store: UsageStore, month: Month) -> FrozenUsage:
    """Give the version that drafts are made from.

    Raises:
        UsageError: when nothing is frozen yet, or the pinned version is not in the store.
    """
    frozen = pinned_version(ledger, store, month) or store.latest(month)
    if frozen is None:
        raise UsageError(
            f"The usage of {month} is not frozen yet.", remedy="Materialize raw_usage of the month first."
        )
    return frozen


def earlier_versions(ledger: Ledger, store: UsageStore, month: Month) -> tuple[list[FrozenUsage], list[str]]:
    """Give earlier billed months' frozen versions, for late usage, and the months whose version is lost.

    None when a later month is billed already: its version tells what was late for earlier months, and what
    came since is for the next month in the order of time. A difference is billed once.
    """
    if ledger.pinned_versions(since=month.next(), before=Month.parse("9998-12")):
        return [], []
    found, missing = [], []
    for earlier, version in ledger.pinned_versions(since=month.plus(-LATE_USAGE_MONTHS), before=month):
        try:
            found.append(store.version(earlier, version))
        except UsageError:
            missing.append(str(earlier))
    return found, missing
