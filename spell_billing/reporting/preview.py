"""The preview: what billing a month would send, without storing it, and what that changes against bills."""

import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd

from spell_billing.core.comparison import Charge, Difference, compare_charges
from spell_billing.core.drafting import Account, Draft
from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, State
from spell_billing.core.pricing import load_rating
from spell_billing.core.spreadsheets import safe_cell
from spell_billing.core.terms import USUAL_POLICY, Policy
from spell_billing.invoicing.guards import require_good_rows
from spell_billing.invoicing.usage_versions import (
    earlier_versions,
    pinned_version,
    with_scratch_supplement,
)
from spell_billing.invoicing.user_drafts import drafts_of
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.nothing_made import starts_over
from spell_billing.ledger.queries import read_bills_to_redraft
from spell_billing.ledger.rows import Bill
from spell_billing.usage.aggregate import aggregate
from spell_billing.usage.contract import UsageSource
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.store import UsageStore

_SCRATCH_PREFIX = "spell-billing-preview-"
_DRAFT_COLUMNS = (
    *("user", "state", "reason", "customer", "plan", "currency", "calls", "usage_cents", "total_cents"),
)


def preview_drafts(
    month: Month, ledger: Ledger, source: UsageSource, store: UsageStore, policy: Policy = USUAL_POLICY
) -> Iterator[Draft]:
    """Draft the month from its usage as it is now, or as it was frozen once billing has started.

    Users who wait for their bill are drafted as the next run would draft them: with what came since. All
    other bills of a month whose billing has started are as the ledger has them, in their states: sent,
    settled, void, or about to be sent. No run drafts them again, whatever plans and accounts say now.

    Raises:
        SpellBillingError: as freezing and drafting do; for bad rows too.
    """
    pinned = None if ledger.read(starts_over, month) else pinned_version(ledger, store, month)
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
    for user_id, bill in sorted(_latest(ledger, month).items()):
        if user_id not in waiting:
            yield _as_it_is(bill)
    if waiting:
        with tempfile.TemporaryDirectory(prefix=_SCRATCH_PREFIX) as folder:
            frozen = with_scratch_supplement(
                ledger, store, source, pinned, users=waiting, directory=Path(folder)
            )
            history_of = partial(ledger.history, month, only=waiting)
            yield from drafts_of(month, source, frozen, history_of, only=waiting, policy=policy)


def _latest(ledger: Ledger, month: Month) -> dict[str, Bill]:
    """Return each user's latest bill."""
    bills = sorted(ledger.bills(month), key=lambda bill: bill.generation)
    return {bill.user_id: bill for bill in bills}


def _as_it_is(bill: Bill) -> Draft:
    """Return a bill of the ledger in the form of a draft, with the bill's own state."""
    account = Account(
        bill.stripe_customer_id, bill.currency, bill.plan_id, included_cents=bill.included_cents
    )
    return Draft(
        user_id=bill.user_id,
        state=bill.state,
        reason=bill.reason,
        account=account,
        currency=bill.currency,
        calls=bill.calls,
        usage_cents=bill.usage_cents,
        total_cents=bill.total_cents,
        carried_cents=bill.carried_cents,
        credit_applied_cents=bill.credit_applied_cents,
        rating=load_rating(bill.rating, bill.included_cents),
        lines=bill.parsed_lines,
        description=bill.description,
        terms=bill.parsed_terms,
    )


def drafts_frame(drafts: Iterable[Draft], *, with_lines: bool = False) -> pd.DataFrame:
    """Return drafts as a table for people: one row per user, the largest total first, minor units.

    For programs it has the lines as well, each with what the history API says of one.
    """
    rows = [
        (
            draft.user_id,
            draft.state.value,
            draft.reason.value if draft.reason else "",
            (draft.account.stripe_customer_id if draft.account else None) or "",
            (draft.account.plan_id if draft.account else None) or "",
            draft.currency,
            draft.calls,
            draft.usage_cents,
            draft.total_cents,
            [{name: getattr(line, name) for name in _OF_LINE} for line in draft.lines]
            if with_lines
            else None,
        )
        for draft in drafts
    ]
    frame = pd.DataFrame(rows, columns=[*_DRAFT_COLUMNS, "lines"])
    frame = frame if with_lines else frame.drop(columns="lines")
    return frame.sort_values(["total_cents", "user"], ascending=[False, True], ignore_index=True)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table of users as CSV in which no text is a formula to a spreadsheet."""
    texts = {
        name: frame[name].map(lambda cell: safe_cell(cell) if isinstance(cell, str) else cell)
        for name in ("user", "customer", "plan", "currency", "old_invoice", "why")
        if name in frame
    }
    # With a byte order mark, for Excel.
    frame.assign(**texts).to_csv(path, index=False, encoding="utf-8-sig")


Against = Month | Literal["billed"]
_OF_LINE = ("kind", "description", "usage_month", "calls", "amount_cents")
_CHARGED = INVOICED | {State.SKIPPED}
_CHARGES_NOTHING = frozenset({State.VOID, State.SETTLED})
_COLUMNS = (
    *("user", "currency", "change", "before_cents", "now_cents", "by_cents", "before_calls", "now_calls"),
)


def compare_drafts(
    month: Month, drafts: Iterable[Draft], ledger: Ledger, against: Against
) -> list[Difference]:
    """Return each user's difference, the largest amount first.

    Drafts are compared with all bills of an earlier month, sent or not, or with `billed`: what was invoiced
    for their own month.

    Raises:
        LedgerError: when there is nothing to compare with.
    """
    of = month if against == "billed" else against
    if ledger.month(of) is None:
        raise LedgerError(
            f"{of} has no bills to compare with.",
            remedy="Choose a month that was drafted; `spell-billing status` lists them.",
        )
    # What a person closed, or must look at, no run sends.
    unsent = _CHARGES_NOTHING | ({State.PARKED} if against == "billed" else frozenset())
    now = (
        Charge(each.user_id, each.currency, each.calls, each.total_cents, each.lines)
        for each in drafts
        if each.state not in unsent
    )
    return compare_charges(_charges_of(ledger, of, billed_only=against == "billed"), now)


def differences_frame(differences: Iterable[Difference]) -> pd.DataFrame:
    """Return differences as a table in minor units: one row per user and currency, one column per kind."""
    rows = [
        {
            "user": each.user_id,
            "currency": each.currency,
            "change": each.change.value,
            "before_cents": each.before_cents,
            "now_cents": each.now_cents,
            "by_cents": each.by_cents,
            "before_calls": each.before_calls,
            "now_calls": each.now_calls,
            **{f"{kind}_line_cents": cents for kind, cents in each.by_kind.items()},
        }
        for each in differences
    ]
    kinds = sorted({name for row in rows for name in row if name.endswith("_line_cents")})
    frame = pd.DataFrame(rows, columns=[*_COLUMNS, *kinds])
    return frame.fillna(dict.fromkeys(kinds, 0)).astype(dict.fromkeys(kinds, "int64"))


def _charges_of(ledger: Ledger, month: Month, *, billed_only: bool) -> Iterator[Charge]:
    for bill in _latest(ledger, month).values():
        if bill.state in _CHARGED if billed_only else bill.state not in _CHARGES_NOTHING:
            yield Charge(bill.user_id, bill.currency, bill.calls, bill.total_cents, bill.parsed_lines)
