"""The simulation: months as they were frozen, rated once more under other prices. Nothing is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, Inexact, localcontext
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from spell_billing.core.errors import MonthError, UsageError
from spell_billing.core.month import Month
from spell_billing.core.open_month import rate_open_month, rating_of
from spell_billing.core.plans import MonthPlan
from spell_billing.core.simulation import Figures, UserChange, add_up, figures_of, largest
from spell_billing.invoicing.guards import require_good_rows
from spell_billing.invoicing.usage_versions import pinned_version
from spell_billing.ledger.ledger import Ledger
from spell_billing.reporting.billed_plans import plans_of_bills, plans_since, read_bills
from spell_billing.reporting.new_cards import NewCards
from spell_billing.reporting.new_pricing import (
    NewPricing,
    Terms,
    frozen_terms,
    reprice,
    require_known,
)
from spell_billing.usage.accounts import DEFAULT_CURRENCY
from spell_billing.usage.disk import verify_file
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.plan_book import PLANS_SCHEMA, PlanBook
from spell_billing.usage.store import UsageStore
from spell_billing.usage.user_usage import open_user_usage

if TYPE_CHECKING:
    import pandas as pd

FROM_PLANS = "plans frozen with the month"
FROM_BOTH = "plans frozen with the month; where one did not exist then, that of the bill"
FROM_BILLS = "allowances of the bills"
FROM_NOTHING = "usage at cost: neither frozen plans nor bills"
_DIGITS = 1_000
_PERCENT = Decimal(100)
_MOST_MONTHS = 120


@dataclass(frozen=True, slots=True)
class SimulatedMonth:
    """A month's figures by currency, the version they are of, and what the amounts before come from."""

    month: Month
    version: str
    before_from: str
    figures: Sequence[Figures]


@dataclass(frozen=True, slots=True)
class Simulation:
    """What other prices would have changed in several months: of each, and of each user in all.

    `unused_cards` are the rate cards of the other prices, in words, that priced nothing.
    """

    months: Sequence[SimulatedMonth]
    users: Sequence[UserChange]
    unused_cards: Sequence[str] = ()

    @property
    def figures(self) -> list[Figures]:
        """The figures of all months together, by currency."""
        return figures_of(self.users)

    @property
    def largest(self) -> list[UserChange]:
        """The ten largest changes in each currency."""
        return largest(self.users)

    def as_json(self) -> dict[str, Any]:
        """Return all figures for programs."""
        return {
            "months": [
                {
                    "month": str(each.month),
                    "version": each.version,
                    "before_from": each.before_from,
                    "figures": [_json(one) for one in each.figures],
                }
                for each in self.months
            ],
            "in_all": [_json(one) for one in self.figures],
            "largest": [_json(one) for one in self.largest],
            "unused_cards": list(self.unused_cards),
        }


@dataclass(frozen=True, slots=True)
class _Opened:
    frozen: FrozenUsage
    plans: pa.Table
    before_from: str
    currencies: dict[str, str]
    users: list[str]
    costs: list[str]


def simulate(
    ledger: Ledger, store: UsageStore, first: Month, last: Month, *, pricing: NewPricing, name: str
) -> Simulation:
    """Rate the months from `first` to `last` as they were frozen, and under other prices.

    Late usage, credits and taxes are left out. `name` is that of the file of prices.

    Raises:
        MonthError: the range is empty or too long, or ends in a month that is not over.
        UsageError: a month was not frozen here, or lacks what a rate card prices; a card cannot be used; the
            pricing names a plan or a user whom no month has.
        IntegrityError: what was frozen was altered.
    """
    cards = NewCards(store, pricing, name)
    opened = [_opened(ledger, frozen) for frozen in _versions(ledger, store, first, last)]
    terms: dict[str, Terms] = {}
    for each in opened:
        terms.update(frozen_terms(each.plans))
    users = {user for each in opened for user in (*each.users, *each.plans["user_id"].to_pylist())}
    require_known(pricing, terms, users, name)
    months: list[SimulatedMonth] = []
    changes: list[UserChange] = []
    for each in opened:
        of_month = list(_changes(each, pricing, terms, cards))
        frozen = each.frozen
        months.append(SimulatedMonth(frozen.month, frozen.version, each.before_from, figures_of(of_month)))
        changes = add_up([*changes, *of_month])
    return Simulation(months, changes, cards.unused)


def users_frame(simulation: Simulation) -> "pd.DataFrame":
    """Return every user's change as a table for people, the largest first, in minor units."""
    import pandas as pd  # noqa: PLC0415 - heavy, and the job, which imports this module, does without

    rows = sorted(simulation.users, key=lambda each: (-abs(each.by_cents), each.user_id, each.currency))
    return pd.DataFrame(
        [
            (each.user_id, each.currency, _word(each), each.before_cents, each.after_cents, each.by_cents)
            for each in rows
        ],
        columns=["user", "currency", "pays", "before_cents", "after_cents", "by_cents"],
    )


def _word(change: UserChange) -> str:
    if not change.by_cents:
        return "the same"
    return "more" if change.by_cents > 0 else "less"


def _versions(ledger: Ledger, store: UsageStore, first: Month, last: Month) -> Iterator[FrozenUsage]:
    if last < first:
        raise MonthError(f"{last} is before {first}.", remedy="Exchange the two months.")
    if first.plus(_MOST_MONTHS) <= last:
        raise MonthError(
            f"{first} to {last} are over {_MOST_MONTHS} months.", remedy="Simulate fewer months at once."
        )
    months = first.through(last)
    found = [(month, pinned_version(ledger, store, month) or store.latest(month)) for month in months]
    absent = [month for month, version in found if version is None]
    still_open = next((month for month in absent if not month.is_closed(datetime.now(UTC))), None)
    if still_open is not None:
        raise MonthError(
            f"{still_open} is not over yet, so its usage is not frozen.",
            remedy=f"Simulate months up to {still_open.previous()}.",
        )
    missing = ", ".join(str(month) for month in absent)
    if missing:
        raise UsageError(
            f"There is no frozen usage of {missing} on this machine.",
            remedy="Choose months that were billed here, or set SPELL_BILLING_USAGE_STORE to the folder that "
            "has them.",
        )
    for _, version in found:
        if version is not None:
            require_good_rows(version)
            yield version


def _opened(ledger: Ledger, frozen: FrozenUsage) -> _Opened:
    with open_user_usage(frozen) as file:
        usage = file.read(["user_id", "cost_cents"])
    bills = read_bills(ledger, frozen.month)
    plans = frozen.manifest.plans
    if plans is None:
        rows, before_from = plans_of_bills(bills), FROM_BILLS if bills else FROM_NOTHING
        table = pa.Table.from_pylist(rows, schema=PLANS_SCHEMA)
    else:
        path = frozen.path(plans)
        verify_file(path, plans)
        with pq.ParquetFile(path) as file:
            table, before_from = file.read(), FROM_PLANS
        if since := plans_since(frozen.month, table, bills):
            table = pa.concat_tables([table, pa.Table.from_pylist(since, schema=PLANS_SCHEMA)])
            before_from = FROM_BOTH
    return _Opened(
        frozen,
        table,
        before_from,
        {user: row.currency for user, row in bills.items()},
        usage["user_id"].to_pylist(),
        usage["cost_cents"].cast(pa.string()).to_pylist(),
    )


def _changes(
    opened: _Opened, pricing: NewPricing, terms: dict[str, Terms], cards: NewCards
) -> Iterator[UserChange]:
    month, level = opened.frozen.month, pricing.usage_percent / _PERCENT
    before = PlanBook(month, opened.plans)
    after = PlanBook(month, reprice(month, opened.plans, pricing, terms, opened.users))
    by_cards = cards.costs(opened.frozen, opened.users, after)
    for user_id, text in zip(opened.users, opened.costs, strict=True):
        cents = Decimal(text), _at(level, Decimal(text if by_cards is None else by_cards[user_id]))
        yield _change(user_id, cents, (before, after), opened.currencies)
    without_usage = (before.users_charged_alone() | after.users_charged_alone()).difference(opened.users)
    for user_id in sorted(without_usage):
        change = _change(user_id, (Decimal(0), Decimal(0)), (before, after), opened.currencies)
        # Who is charged in the next month alone pays nothing in this one.
        if change.before_cents or change.after_cents:
            yield change


def _change(
    user_id: str,
    usage_cents: tuple[Decimal, Decimal],
    books: tuple[PlanBook, PlanBook],
    currencies: dict[str, str],
) -> UserChange:
    old, new = (book.plan_of(user_id) for book in books)
    currency = currencies.get(user_id) or _currency(old) or _currency(new) or DEFAULT_CURRENCY
    if new is not None and not set(new.currencies) <= {currency, *(old.currencies if old else ())}:
        raise UsageError(
            f"User {user_id} pays in {currency}, and would be on a plan in {' and '.join(new.currencies)}.",
            remedy="Move users to plans of their own currency only.",
        )
    before, after = (
        rate_open_month(cents, rating_of(None, plan)).due_cents
        for plan, cents in zip((old, new), usage_cents, strict=True)
    )
    return UserChange(user_id, currency, before, after)


def _currency(plan: MonthPlan | None) -> str | None:
    return plan.currencies[0] if plan and plan.currencies else None


def _at(level: Decimal, usage_cents: Decimal) -> Decimal:
    """Return usage priced at another level, with all its digits."""
    if level == 1:
        return usage_cents
    with localcontext(prec=_DIGITS) as context:
        context.traps[Inexact] = True
        return usage_cents * level


def _json(found: Figures | UserChange) -> dict[str, Any]:
    return {**msgspec.to_builtins(found), "by_cents": found.by_cents}
