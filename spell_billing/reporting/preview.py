"""The preview: what billing a month would send, from the same freezing and drafting, without storing it."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd

from spell_billing.core.drafting import Draft
from spell_billing.core.month import Month
from spell_billing.core.spreadsheets import safe_cell
from spell_billing.core.terms import USUAL_POLICY, Policy
from spell_billing.invoicing.draft_month import drafts_of
from spell_billing.invoicing.guards import require_good_rows
from spell_billing.invoicing.usage_versions import (
    earlier_versions,
    pinned_version,
    with_scratch_supplement,
)
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.queries import read_bills_to_redraft
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.contract import FrozenUsage, UsageSource
from spell_billing.usage.store import UsageStore

_SCRATCH_PREFIX = "spell-billing-preview-"


def preview_drafts(
    month: Month, ledger: Ledger, source: UsageSource, store: UsageStore, policy: Policy = USUAL_POLICY
) -> Iterator[Draft]:
    """Draft the month from its usage as it is now, or as it was frozen once billing has started.

    Users who wait for their bill are drafted as the next run would draft them: with what came since.

    Raises:
        SpellBillingError: as freezing and drafting do; for bad rows too.
    """
    pinned = pinned_version(ledger, store, month)
    if pinned is not None:
        yield from _of_pinned(ledger, source, store, pinned, policy)
        return
    with tempfile.TemporaryDirectory(prefix=_SCRATCH_PREFIX) as folder:
        earlier, _ = earlier_versions(ledger, store, month)
        frozen = UsageStore(Path(folder)).freeze(source, month, late_for=earlier)
        require_good_rows(frozen)
        aggregate(frozen)
        yield from drafts_of(month, source, frozen, lambda late: ledger.history(month, late), policy=policy)


def _of_pinned(
    ledger: Ledger, source: UsageSource, store: UsageStore, pinned: FrozenUsage, policy: Policy
) -> Iterator[Draft]:
    month = pinned.month
    with ledger.reading() as connection:
        waiting = {bill.user_id for bill in read_bills_to_redraft(connection, month)}
    for draft in drafts_of(month, source, pinned, partial(ledger.history, month), policy=policy):
        if draft.user_id not in waiting:
            yield draft
    if waiting:
        with tempfile.TemporaryDirectory(prefix=_SCRATCH_PREFIX) as folder:
            frozen = with_scratch_supplement(
                ledger, store, source, pinned, users=waiting, directory=Path(folder)
            )
            history_of = partial(ledger.history, month, only=waiting)
            yield from drafts_of(month, source, frozen, history_of, only=waiting, policy=policy)


def drafts_frame(drafts: Iterator[Draft]) -> pd.DataFrame:
    """Return drafts as a table for people: one row per user, the largest total first, minor units."""
    rows = [
        (
            draft.user_id,
            draft.state.value,
            draft.reason.value if draft.reason else "",
            (draft.account.stripe_customer_id if draft.account else None) or "",
            draft.currency,
            draft.calls,
            draft.usage_cents,
            draft.total_cents,
        )
        for draft in drafts
    ]
    columns = ["user", "state", "reason", "customer", "currency", "calls", "usage_cents", "total_cents"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["total_cents", "user"], ascending=[False, True], ignore_index=True)


def spreadsheet_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of drafts in which no text is a formula to a spreadsheet."""
    texts = {
        name: frame[name].map(lambda cell: safe_cell(cell) if isinstance(cell, str) else cell)
        for name in ("user", "customer", "currency", "old_invoice", "why")
        if name in frame
    }
    return frame.assign(**texts)
