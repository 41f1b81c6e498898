"""Where a month stands, as numbers: for the command line, reports and programs."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from spell_billing.core.lines import FORGIVEN, GRANT
from spell_billing.core.money import round_half_up
from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, REMEDIES, TO_DRIVE, UNDONE, Reason, State, words
from spell_billing.ledger.charges import Kept, kept_of_months
from spell_billing.ledger.column_types import outcome
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.month_state import MonthState
from spell_billing.ledger.queries import line_totals
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.totals import GroupTotals

NAMED_USERS = 5
"""How many users of a group are named; `invoices` lists them all."""

LINES = {"grants_applied_cents": GRANT, "forgiven_cents": FORGIVEN}
"""What lines of one kind take off a month's totals: the kind by the name of the sum."""

_SUMS = (
    # Usage - covered + plan + late - credit applied + carried = total, but for each user's part of a cent.
    *("covered_cents", "plan_cents", "late_cents", "credit_applied_cents", "carried_cents"),
    *("tax_cents", "discount_cents", "without_tax", *LINES),
)
_MONEY = ("paid_cents", "refunded_cents", "disputed_cents", "kept_cents", "moved_cents", "from_balance_cents")
_COUNTED = (State.FAILED, State.HELD, State.SKIPPED, State.PARKED, State.VOID, State.SETTLED)
_PAYMENT_STATES = (State.PAID, State.PAYMENT_FAILED, State.UNCOLLECTIBLE)


@dataclass(frozen=True, slots=True)
class MonthStatus:
    """A month's state and totals. Amounts in minor units; credits do not reduce `total_cents`.

    `lines` has the sums of `LINES` by kind and currency.
    """

    month: Month
    state: MonthState
    record: MonthRecord | None
    groups: tuple[GroupTotals, ...]
    examples: Mapping[GroupTotals, Sequence[str]]
    money: tuple[Kept, ...] = ()
    lines: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def named(self, group: GroupTotals) -> Sequence[str]:
        """Return the first users of a group who have no invoice and should have one."""
        return self.examples.get(group, ())

    @property
    def users(self) -> int:
        """Users with a bill or a reason for none."""
        return sum(group.users for group in self.groups)

    def count(self, states: Collection[State]) -> int:
        """Count users in the given states."""
        return sum(group.users for group in self.groups if group.state in states)

    def cents(self, states: Collection[State]) -> int:
        """Sum what is due in the given states."""
        return sum(self.by_currency("total_cents", states).values())

    def total(self, name: str) -> int:
        """Sum what `by_currency` returns over all currencies."""
        return sum(self.by_currency(name).values())

    def by_currency(self, name: str, states: Collection[State] = frozenset(State)) -> dict[str, int]:
        """Sum a column of the groups in the given states, or lines, in whole cents, for each currency.

        As in `cents`, credits do not reduce `total_cents`.
        """
        if name in LINES:
            return {currency: -cents for currency, cents in self.lines.get(LINES[name], {}).items()}
        sums: defaultdict[str, Decimal] = defaultdict(Decimal)
        for group in self.groups:
            if group.state in states and (name != "total_cents" or group.total_cents > 0):
                sums[group.currency] += getattr(group, name)
        return {currency: round_half_up(amount) for currency, amount in sums.items()}

    def as_json(self) -> dict[str, Any]:
        """Return the status for programs."""
        invoiced, uninvoiced = (self.by_currency("total_cents", states) for states in (INVOICED, UNDONE))
        return {
            "month": str(self.month),
            "state": self.state,
            "users": self.users,
            "calls": self.record.calls if self.record else 0,
            "usage_cents": whole(self.record.usage_cents) if self.record else 0,
            "total_cents": self.total("total_cents"),
            "invoiced": self.count(INVOICED),
            "pending": self.count(TO_DRIVE),
            **{state.value: self.count({state}) for state in _COUNTED},
            "invoiced_cents": self.cents(INVOICED),
            "uninvoiced_cents": self.cents(UNDONE),
            **{name: self.total(name) for name in _SUMS},
            **{
                f"{state.value}{unit}": counted({state})
                for state in _PAYMENT_STATES
                for unit, counted in (("", self.count), ("_cents", self.cents))
            },
            # Paid is what was received, not what the paid invoices charged.
            **{name: sum(getattr(each, name) for each in self.money) for name in _MONEY},
            "currencies": sorted({group.currency for group in self.groups}),
            "by_currency": {
                currency: {
                    "total_cents": total_cents,
                    "invoiced_cents": invoiced.get(currency, 0),
                    "uninvoiced_cents": uninvoiced.get(currency, 0),
                }
                for currency, total_cents in sorted(self.by_currency("total_cents").items())
            },
            "reasons": [
                {
                    "state": group.state.value,
                    "reason": group.reason.value,
                    "users": group.users,
                    "total_cents": group.total_cents,
                    "currency": group.currency,
                    "remedy": REMEDIES[group.reason],
                    "first_users": list(self.named(group)),
                }
                for group in self.groups
                if group.reason is not None
            ],
            "usage_version": self.record.usage_version if self.record else None,
        }


def month_status(ledger: Ledger, month: Month, now: datetime) -> MonthStatus:
    """Read where a month stands at the aware datetime `now`."""
    record = ledger.month(month)
    groups = tuple(ledger.group_totals(month)) if record else ()
    examples = {
        group: ledger.first_users(month, group, NAMED_USERS)
        for group in groups
        if group.state in UNDONE and group.reason is not None
    }
    with ledger.reading() as connection:
        money = tuple(kept_of_months(connection, [month])[str(month)])
        lines = line_totals(connection, month, [*LINES.values()]) if record else {}
    return MonthStatus(month, ledger.standing(month).state(now), record, groups, examples, money, lines)


def bill_as_json(bill: Mapping[str, Any]) -> dict[str, Any]:
    """Return one user's bill, the columns of `LISTED`, for programs."""
    reason = bill["reason"]
    return {
        **bill,
        "usage_cents": whole(bill["usage_cents"]),
        "why": words(outcome(Reason, reason), bill["message"]) if reason else None,
    }


def whole(amount: Decimal) -> int | Decimal:
    """Return an integer where the amount is one: most usage has whole cents."""
    return int(amount) if amount == amount.to_integral_value() else amount.normalize()
