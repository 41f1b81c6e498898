"""Months in figures for finance: state, totals by currency, paid share, and who has no invoice and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from spell_billing.core.month import Month
from spell_billing.core.outcomes import INVOICED, REMEDIES, TO_DRIVE, UNDONE, Reason, State
from spell_billing.ledger.charges import Kept, kept_of_months
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.month_state import MonthState, is_undone, state_of_month
from spell_billing.ledger.queries import read_month, read_months
from spell_billing.ledger.reviews import Review, read_review
from spell_billing.ledger.rows import MonthRecord
from spell_billing.ledger.runs import RunRecord, runs_of_month
from spell_billing.ledger.totals import MonthGroup, month_groups


@dataclass(frozen=True, slots=True)
class Money:
    """What a month brings in one currency. Amounts in its minor units; no two currencies are ever added.

    Attributes:
        currency: Three letters.
        invoices: How many stand at Stripe.
        invoiced_cents: What they charge.
        paid: How many of them are paid.
        paid_cents: What was received for the invoices.
        kept_cents: Of it, what was neither refunded nor taken back in disputes.
        failed_cents: What those charge whose payment failed or was given up.
        missing_cents: What users are charged who have no invoice yet.
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
class Problem:
    """Users of a month who share state and reason; `remedy` says what to do about it."""

    state: State
    reason: Reason
    users: int
    total_cents: int
    currency: str
    remedy: str


@dataclass(frozen=True, slots=True)
class MonthFigures:
    """One month. `users` counts those with a bill or a reason for none."""

    month: Month
    state: MonthState
    record: MonthRecord | None
    users: int
    money: Sequence[Money]
    users_by_state: Mapping[State, int]
    problems: Sequence[Problem]
    last_run: RunRecord | None

    @property
    def invoices(self) -> int:
        """How many stand at Stripe."""
        return self._count(INVOICED)

    @property
    def waiting(self) -> int:
        """Users who should have an invoice and have none."""
        return self._count(UNDONE)

    @property
    def to_drive(self) -> int:
        """Users whose bill the next run sends on."""
        return self._count(TO_DRIVE)

    def _count(self, states: Iterable[State]) -> int:
        return sum(self.users_by_state.get(state, 0) for state in states)


def all_months(ledger: Ledger, now: datetime) -> list[Month]:
    """Return the months from the present one back to the first that was drafted, or the last closed one."""
    with ledger.reading() as connection:
        drafted = [Month.parse(record.month) for record in read_months(connection)]
    month = Month.containing(now)
    first = min([*drafted, month.previous()])
    latest = max([*drafted, month])
    found = []
    while latest >= first:
        found.append(latest)
        latest = latest.previous()
    return found


def figures_of(ledger: Ledger, wanted: Sequence[Month], now: datetime) -> list[MonthFigures]:
    """Read the figures of months, in the order that is asked for."""
    with ledger.reading() as connection:
        records = {month: read_month(connection, month) for month in wanted}
        drafted = [month for month, record in records.items() if record is not None]
        groups = month_groups(connection, drafted)
        reviews = {month: read_review(connection, month) for month in drafted}
        kept = kept_of_months(connection, drafted)
        runs = {month: runs_of_month(connection, month, 1) for month in wanted}
    return [
        _figures(
            month,
            records[month],
            reviews.get(month),
            [each for each in groups if each.month == str(month)],
            {each.currency: each for each in kept.get(str(month), ())},
            last_run=next(iter(runs[month]), None),
            now=now,
        )
        for month in wanted
    ]


def _figures(
    month: Month,
    record: MonthRecord | None,
    review: Review | None,
    groups: Sequence[MonthGroup],
    kept: Mapping[str, Kept],
    *,
    last_run: RunRecord | None,
    now: datetime,
) -> MonthFigures:
    by_state: dict[State, int] = {}
    for each in groups:
        by_state[each.state] = by_state.get(each.state, 0) + each.bills
    undone = any(is_undone(each.state, each.reason) for each in groups)
    return MonthFigures(
        month=month,
        state=state_of_month(month, record, review, undone=undone, now=now),
        record=record,
        users=sum(by_state.values()),
        money=[_money(each, groups, kept.get(each)) for each in sorted({group.currency for group in groups})],
        users_by_state=by_state,
        problems=_problems(groups),
        last_run=last_run,
    )


def _money(currency: str, groups: Sequence[MonthGroup], kept: Kept | None) -> Money:
    own = [each for each in groups if each.currency == currency]

    def cents(states: Iterable[State]) -> int:
        return sum(each.total_cents for each in own if each.state in states)

    return Money(
        currency=currency,
        invoices=sum(each.bills for each in own if each.state in INVOICED),
        invoiced_cents=cents(INVOICED),
        paid=sum(each.bills for each in own if each.state is State.PAID),
        paid_cents=kept.paid_cents if kept else 0,
        kept_cents=kept.kept_cents if kept else 0,
        failed_cents=cents({State.PAYMENT_FAILED, State.UNCOLLECTIBLE}),
        missing_cents=cents(UNDONE),
    )


def _problems(groups: Sequence[MonthGroup]) -> list[Problem]:
    return [
        Problem(each.state, each.reason, each.bills, each.total_cents, each.currency, REMEDIES[each.reason])
        for each in sorted(groups, key=lambda each: (-each.bills, each.state, str(each.reason)))
        if each.reason is not None
    ]
