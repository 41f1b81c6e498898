"""Months in figures for finance: state, totals by currency, paid share, and who has no invoice and why."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, State
from spell_billing.ledger.charges import Kept, kept_of_months
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.month_state import MonthState, is_undone, state_of_month
from spell_billing.ledger.queries import read_month, read_months
from spell_billing.ledger.reviews import read_review
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.runs import RunRecord, runs_of_month
from spell_billing.ledger.totals import MonthGroup, month_groups


@dataclass(frozen=True, slots=True)
class Money:
    """What a month brings in one currency, in its minor units; no two currencies are ever added.

    `failed_cents` is what invoices charge whose payment failed or was given up, `missing_cents` what users
    are charged who have no invoice yet.
    """

    currency: str
    invoices: int
    invoiced_cents: int
    paid: int
    paid_cents: int
    kept_cents: int
    failed_cents: int
    missing_cents: int

    @property
    def paid_share(self) -> str | None:
        """The paid part of what was invoiced, as `98.7 %`, rounded down; None where nothing was."""
        if not self.invoiced_cents:
            return None
        permille = self.paid_cents * 1000 // self.invoiced_cents
        return f"{permille // 10}.{permille % 10} %"


@dataclass(frozen=True, slots=True)
class MonthFigures:
    """One month; `groups` are its users by state, reason and currency."""

    month: Month
    state: MonthState
    record: MonthRecord | None
    groups: Sequence[MonthGroup]
    money: Sequence[Money]
    last_run: RunRecord | None

    def count(self, states: Collection[State] = tuple(State)) -> int:
        """Count users in the given states: all who have a bill or a reason for none."""
        return sum(group.bills for group in self.groups if group.state in states)

    @property
    def invoices(self) -> int:
        """How many stand at Stripe."""
        return self.count(INVOICED)

    @property
    def waiting(self) -> int:
        """Users who should have an invoice and have none, those whose invoice was voided among them."""
        return sum(each.bills for each in self.groups if is_undone(each.state, each.reason))

    @property
    def problems(self) -> Sequence[MonthGroup]:
        """Users who share state and reason, most of them first."""
        groups = [each for each in self.groups if each.reason is not None]
        return sorted(groups, key=lambda each: (-each.bills, each.state, str(each.reason)))


def all_months(ledger: Ledger, now: datetime) -> list[Month]:
    """Return the months from the present one back to the first that was drafted, or the last closed one."""
    with ledger.reading() as connection:
        drafted = [Month.parse(record.month) for record in read_months(connection)]
    month = Month.containing(now)
    return min([*drafted, month.previous()]).through(max([*drafted, month]))[::-1]


def figures_of(ledger: Ledger, wanted: Sequence[Month], now: datetime) -> list[MonthFigures]:
    """Read the figures of months, in the order that is asked for."""
    figures = []
    with ledger.reading() as connection:
        all_groups = month_groups(connection, wanted)
        all_kept = kept_of_months(connection, wanted)
        for month in wanted:
            record, review = read_month(connection, month), read_review(connection, month)
            groups = [each for each in all_groups if record and each.month == str(month)]
            undone = any(is_undone(each.state, each.reason) for each in groups)
            kept = {each.currency: each for each in all_kept.get(str(month), ())}
            figures.append(
                MonthFigures(
                    month,
                    state_of_month(month, record, review, undone=undone, now=now),
                    record,
                    groups,
                    [_money(each, groups, kept) for each in sorted({group.currency for group in groups})],
                    next(iter(runs_of_month(connection, month, 1)), None),
                )
            )
    return figures


def _money(currency: str, groups: Sequence[MonthGroup], kept: Mapping[str, Kept]) -> Money:
    own = [each for each in groups if each.currency == currency]

    def cents(states: Collection[State]) -> int:
        return sum(each.total_cents for each in own if each.state in states)

    def bills(states: Collection[State]) -> int:
        return sum(each.bills for each in own if each.state in states)

    return Money(
        currency=currency,
        invoices=bills(INVOICED),
        invoiced_cents=cents(INVOICED),
        paid=bills({State.PAID}),
        paid_cents=kept[currency].paid_cents if currency in kept else 0,
        kept_cents=kept[currency].kept_cents if currency in kept else 0,
        failed_cents=cents({State.PAYMENT_FAILED, State.UNCOLLECTIBLE}),
        missing_cents=sum(each.total_cents for each in own if is_undone(each.state, each.reason)),
    )
