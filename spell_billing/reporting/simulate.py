"""The simulation: months as they were frozen, rated once more under other prices. Nothing is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, Inexact, localcontext
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from spell_billing.core.errors import MonthError, UsageError
from spell_billing.core.money import plain
from spell_billing.core.month import Month
from spell_billing.core.open_month import rate_open_month, rating_of
from spell_billing.core.plans import MonthPlan
from spell_billing.core.pricing import USUAL_RATING, fraction_of, load_rating
from spell_billing.core.simulation import Figures, UserChange, add_up, figures_of, largest
from spell_billing.invoicing.guards import require_good_rows
from spell_billing.invoicing.usage_versions import pinned_version
from spell_billing.ledger.ledger import Ledger
from spell_billing.ledger.schema import invoices
from spell_billing.reporting.new_pricing import (
    NewPricing,
    Terms,
    frozen_terms,
    reprice,
    require_known,
    terms_of,
)
from spell_billing.usage.accounts import DEFAULT_CURRENCY
from spell_billing.usage.disk import verify_file
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.plan_book import PLAN, PLANS_SCHEMA, PlanBook
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
    """What other prices would have changed in several months: of each, and of each user in all."""

    months: Sequence[SimulatedMonth]
    users: Sequence[UserChange]

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
        UsageError: a month was not frozen here; the pricing names a plan or a user whom no month has.
        IntegrityError: what was frozen was altered.
    """
    opened = [_opened(ledger, frozen) for frozen in _versions(ledger, store, first, last)]
    terms: dict[str, Terms] = {}
    for each in opened:
        terms.update(frozen_terms(each.plans))
    users = {user for each in opened for user in (*each.users, *each.plans["user_id"].to_pylist())}
    require_known(pricing, terms, users, name)
    months: list[SimulatedMonth] = []
    changes: list[UserChange] = []
    for each in opened:
        of_month = list(_changes(each, pricing, terms))
        frozen = each.frozen
        months.append(SimulatedMonth(frozen.month, frozen.version, each.before_from, figures_of(of_month)))
        changes = add_up([*changes, *of_month])
    return Simulation(months, changes)


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
    bills = _bills(ledger, frozen.month)
    plans = frozen.manifest.plans
    if plans is None:
        rows, before_from = _plans_of_bills(bills), FROM_BILLS if bills else FROM_NOTHING
        table = pa.Table.from_pylist(rows, schema=PLANS_SCHEMA)
    else:
        path = frozen.path(plans)
        verify_file(path, plans)
        with pq.ParquetFile(path) as file:
            table, before_from = file.read(), FROM_PLANS
        if since := _plans_since(frozen.month, table, bills):
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


def _bills(ledger: Ledger, month: Month) -> dict[str, sa.Row[Any]]:
    """Return each user's latest bill of the month."""
    names = ("user_id", "currency", "plan_id", "included_cents", "rating")
    query = sa.select(*(invoices.c[name] for name in names)).where(invoices.c.month == str(month))
    with ledger.reading() as connection:
        return {row.user_id: row for row in connection.execute(query.order_by(invoices.c.generation))}


def _plans_since(month: Month, plans: pa.Table, bills: dict[str, sa.Row[Any]]) -> list[dict[str, Any]]:
    """Return the plans of accounts whose plan did not exist at the freeze, as their bills have them."""
    rows = []
    for user_id in sorted(PlanBook(month, plans).unknown & bills.keys()):
        bill = bills[user_id]
        rating = load_rating(bill.rating, bill.included_cents)
        percent = fraction_of(rating.usage_discount) * 100
        # Of subscriptions that came since, only shares of the month are known.
        if bill.plan_id and rating != USUAL_RATING and 10**9 % percent.denominator == 0:
            off = plain(Decimal(percent.numerator) / percent.denominator)
            rows.append(_row(bill, rating.included_cents, rating.fee_cents, rating.minimum_cents, off))
    return rows


def _plans_of_bills(bills: dict[str, sa.Row[Any]]) -> list[dict[str, Any]]:
    """Return the plans of a month that was frozen without them: the allowance of each bill."""
    rows = []
    for user_id, bill in bills.items():
        if bill.rating is not None:
            raise UsageError(
                f"The bill of user {user_id} has fees or discounts of plans that the frozen month lacks.",
                remedy="Restore the month's directory in the usage store from a backup.",
            )
        if bill.plan_id is not None or bill.included_cents:
            rows.append(_row(bill, bill.included_cents, 0, 0, "0"))
    return rows


def _row(bill: sa.Row[Any], *amounts: int | str) -> dict[str, Any]:
    plan_id = bill.plan_id or ""
    return {"kind": PLAN, "user_id": bill.user_id, **terms_of(plan_id, plan_id, *amounts, None)}


def _changes(opened: _Opened, pricing: NewPricing, terms: dict[str, Terms]) -> Iterator[UserChange]:
    month, level = opened.frozen.month, pricing.usage_percent / _PERCENT
    before = PlanBook(month, opened.plans)
    after = PlanBook(month, reprice(month, opened.plans, pricing, terms, opened.users))
    for user_id, text in zip(opened.users, opened.costs, strict=True):
        yield _change(user_id, Decimal(text), level, (before, after), opened.currencies)
    without_usage = (before.users_charged_alone() | after.users_charged_alone()).difference(opened.users)
    for user_id in sorted(without_usage):
        change = _change(user_id, Decimal(0), level, (before, after), opened.currencies)
        # Who is charged in the next month alone pays nothing in this one.
        if change.before_cents or change.after_cents:
            yield change


def _change(
    user_id: str,
    usage_cents: Decimal,
    level: Decimal,
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
        for plan, cents in ((old, usage_cents), (new, _at(level, usage_cents)))
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
