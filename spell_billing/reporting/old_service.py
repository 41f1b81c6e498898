"""A month's drafts against what another service billed for it, as when billing moves over from there."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pandas as pd

from spell_billing.core.drafting import Draft
from spell_billing.core.errors import SettingsError
from spell_billing.core.outcomes import INVOICED, Reason, State

_REQUIRED = ("user_id", "amount_cents")
_OPTIONAL = ("stripe_invoice_id", "currency")
_CHARGES = INVOICED | {State.PLANNED, State.HELD, State.DRAFTED}


@dataclass(frozen=True, slots=True)
class OldBill:
    """What the other service billed a user, in minor units; `currency` is empty where the file has none."""

    user_id: str
    amount_cents: int
    stripe_invoice_id: str
    currency: str


class Outcome(StrEnum):
    """How a user's draft compares with what the other service billed."""

    SAME = "same"
    DIFFERENT = "different"
    MISSING = "missing"
    """Billed by the other service, and not by this one."""
    EXTRA = "extra"
    """Billed by this one, and not by the other service."""


def read_old_bills(path: Path) -> Mapping[str, OldBill]:
    """Read a CSV file with a line for each bill: `user_id`, `amount_cents`, and what else is there.

    Raises:
        SettingsError: when a column is missing, an amount is no whole number, or a user stands twice.
    """
    found: dict[str, OldBill] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _require_columns(path, reader.fieldnames or ())
            for row in reader:
                bill = _read(path, reader.line_num, row)
                if bill.user_id in found:
                    both = f"{found[bill.user_id].stripe_invoice_id} and {bill.stripe_invoice_id}"
                    raise SettingsError(
                        f"User {bill.user_id} stands twice in {path}: {both} (line {reader.line_num}).",
                        remedy="Check whether the other service billed the user twice; write one line each.",
                    )
                found[bill.user_id] = bill
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(
            f"{path} cannot be read: {error}.", remedy="Write it as CSV, in UTF-8."
        ) from error
    return found


def old_service_frame(drafts: Iterable[Draft], old: Mapping[str, OldBill]) -> pd.DataFrame:
    """Return a table, one row a user, in minor units: what differs first, the largest amount first.

    A draft that would not be sent, as of a user without an account, charges nothing; its reason says why.
    """
    rows, left = [], dict(old)
    for draft in drafts:
        before = left.pop(draft.user_id, None)
        charges = draft.state in _CHARGES or draft.reason is Reason.BILLED_BY_HAND
        now_cents = draft.total_cents if charges else 0
        if before is None and not now_cents:
            continue
        why = draft.reason.value if draft.reason and not charges else ""
        rows.append(_row(draft.user_id, before, now_cents, draft.currency, why))
    rows += [_row(each.user_id, each, 0, each.currency or "", "no usage") for each in left.values()]
    columns = ["user", "currency", "outcome", "old_cents", "now_cents", "by_cents", "old_invoice", "why"]
    frame = pd.DataFrame(rows, columns=columns)
    order = frame["by_cents"].abs().mul(-1)
    return frame.assign(order=order).sort_values(["order", "user"], ignore_index=True).drop(columns="order")


def summary(frame: pd.DataFrame) -> list[str]:
    """Return a line for each outcome: how many users, and what the other service and this one charge."""
    lines = []
    for outcome in Outcome:
        of = frame[frame["outcome"] == outcome.value]
        old, now = int(of["old_cents"].sum()), int(of["now_cents"].sum())
        users = "1 user" if len(of) == 1 else f"{len(of):,} users"
        lines.append(f"{outcome}: {users}, {old:,} minor units before, {now:,} now")
    return lines


def _row(
    user_id: str, before: OldBill | None, now_cents: int, currency: str, why: str
) -> tuple[str, str, str, int, int, int, str, str]:
    old_cents = before.amount_cents if before else 0
    other_currency = before is not None and before.currency not in {"", currency}
    if before is None:
        outcome = Outcome.EXTRA
    elif old_cents and not now_cents:
        outcome = Outcome.MISSING
    elif old_cents == now_cents and not other_currency:
        outcome = Outcome.SAME
    else:
        outcome = Outcome.DIFFERENT
    if other_currency and before is not None:
        why = f"billed in {before.currency}"
    invoice = before.stripe_invoice_id if before else ""
    by_cents = now_cents - old_cents
    return user_id, currency, outcome.value, old_cents, now_cents, by_cents, invoice, why


def _require_columns(path: Path, names: Iterable[str]) -> None:
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise SettingsError(
            f"{path} has no column {', '.join(missing)}.",
            remedy=f"Its first line names the columns: {', '.join((*_REQUIRED, *_OPTIONAL))}; the last two "
            "may be left out.",
        )


def _read(path: Path, line: int, row: Mapping[str, str | None]) -> OldBill:
    given = {name: (row.get(name) or "").strip() for name in (*_REQUIRED, *_OPTIONAL)}
    digits = given["amount_cents"].removeprefix("-")
    if not given["user_id"] or not (digits.isascii() and digits.isdigit()):
        raise SettingsError(
            f"Line {line} of {path} has no user id, or an amount that is no whole number of minor units.",
            remedy="Write the amount without a point, as 1234 for $12.34.",
        )
    return OldBill(
        given["user_id"],
        int(given["amount_cents"]),
        given["stripe_invoice_id"],
        given["currency"].lower(),
    )
