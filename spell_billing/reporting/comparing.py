"""A month's drafts against what was billed before: an earlier month, or the month itself."""

from collections.abc import Iterable, Iterator
from typing import Literal

import pandas as pd

from spell_billing.core.comparison import Charge, Difference, compare_charges
from spell_billing.core.drafting import Draft
from spell_billing.core.errors import LedgerError
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.rows import Bill

Against = Month | Literal["billed"]
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
    now = (Charge(each.user_id, each.currency, each.calls, each.total_cents, each.lines) for each in drafts)
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
    latest: dict[str, Bill] = {}
    for bill in ledger.bills(month):
        other = latest.get(bill.user_id)
        if other is None or other.generation < bill.generation:
            latest[bill.user_id] = bill
    for bill in latest.values():
        if bill.state in _CHARGED if billed_only else bill.state not in _CHARGES_NOTHING:
            yield Charge(bill.user_id, bill.currency, bill.calls, bill.total_cents, bill.parsed_lines)
