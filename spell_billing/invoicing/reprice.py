"""Adds up the frozen rows of a month once more, and prices one with rate cards, for reconciliation.

What was aggregated may be altered. The prices are in fractions and share no arithmetic with the pricing that
bills: a mistake there shows here.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow.parquet as pq

from spell_billing.core.money import plain
from spell_billing.invoicing.findings import Finding, Kind
from spell_billing.usage.duck import calls_in, open_duckdb, parquet_list
from spell_billing.usage.frozen import FrozenUsage

_ITEM, _NO_ITEM = "item", "'other'"
_PLACES = 18
_Item = tuple[str, str]
"""A user and an item."""


class _Count:
    """What a user has of an item: calls, quantity, stored cost, and what was handed on as late."""

    def __init__(self) -> None:
        self.calls = 0
        self.quantity = self.stored = self.handed_on = Fraction(0)

    def add(self, calls: int, quantity: object, stored: object) -> None:
        self.calls += calls
        self.quantity += Fraction(str(quantity or 0))
        self.stored += Fraction(str(stored))


def frozen_users(frozen: FrozenUsage) -> dict[str, tuple[int, Decimal]]:
    """Return each user's calls and their exact stored cost, from the frozen rows alone.

    Of a month that an engine added up, the frozen files have the sums, and no rows.
    """
    with open_duckdb(frozen.directory.parent) as duck:
        rows = duck.execute(
            f"SELECT user_id::VARCHAR AS u, {calls_in(frozen)}, sum(cost_cents)::VARCHAR "
            f"FROM {parquet_list(frozen.paths)} GROUP BY u"
        )
        return {user: (calls, Decimal(cents)) for user, calls, cents in rows.fetchall()}


def repriced_users(frozen: FrozenUsage) -> dict[str, tuple[int, Decimal]]:
    """Return each user's calls of a month with rate cards, and their price, from frozen rows and cards."""
    price = _Prices(frozen)
    found: defaultdict[str, list[Any]] = defaultdict(lambda: [0, Fraction(0)])
    for (user, item), count in _counts(frozen).items():
        found[user][0] += count.calls
        found[user][1] += price.of(user, item, count)
    return {user: (calls, _decimal(cents)) for user, (calls, cents) in found.items()}


def late_price_findings(frozen: FrozenUsage, recorders: Sequence[FrozenUsage]) -> Iterator[Finding]:
    """Check what was recorded as late for a month with rate cards: with the month, it is the price of all.

    `recorders` are all pinned versions from the month on.
    """
    counts, price = _counts(frozen), _Prices(frozen)
    before = {each: price.of(*each, count) for each, count in counts.items()}
    on_time = {user for user, _ in counts}
    late: set[_Item] = set()
    plans: dict[str, str | None] = {}
    for version in (each for one in recorders for each in (one, *one.supplements)):
        for row in _late_rows(version, str(frozen.month)):
            of = row["user_id"], row["item"]
            counts[of].add(row["calls"], row["quantity"], row["stored_cents"])
            counts[of].handed_on += Fraction(row["cost_cents"])
            late.add(of)
            if "plan_id" in row:
                plans.setdefault(row["user_id"], row["plan_id"])
    for user, item in sorted(late):
        count = counts[user, item]
        expected = price.of(user, item, count) - before.get((user, item), Fraction(0))
        by_plan: list[Fraction] = []
        if user not in on_time and not price.has_plan(user):
            # Who had nothing on time was priced by the plan of the account as it was then.
            by_plan = price.by_plans({plans[user]} if user in plans else None, item, count)
            expected = by_plan[0] if user in plans else expected
        if expected != count.handed_on and not (by_plan and min(by_plan) <= count.handed_on <= max(by_plan)):
            yield Finding(
                Kind.LATE_USAGE_DIFFERS,
                user,
                None,
                f"{plain(_decimal(expected))} cents for what came late of {frozen.month} and item {item}",
                f"{plain(_decimal(count.handed_on))} cents recorded",
            )


class _Prices:
    """A month's frozen cards as the file has them, and the frozen plans."""

    def __init__(self, frozen: FrozenUsage) -> None:
        rates = frozen.manifest.rates
        if rates is None:
            raise ValueError(f"{frozen.month}/{frozen.version} has no rate cards")
        self._plans: Mapping[str, str] = {}
        if rates.plans is not None:
            rows = pq.ParquetFile(frozen.path(rates.plans)).read().to_pylist()
            self._plans = {row["user_id"]: row["plan_id"] for row in rows}
        self._cards: defaultdict[tuple[str | None, str | None], list[Mapping[str, Any]]] = defaultdict(list)
        for row in pq.ParquetFile(frozen.path(rates.cards)).read().to_pylist():
            self._cards[row["plan_id"], row["item"]].append(row)

    def has_plan(self, user: str) -> bool:
        """Whether the user's plan was frozen with the month."""
        return user in self._plans

    def by_plans(self, plans: set[str | None] | None, item: str, count: _Count) -> list[Fraction]:
        """Return what a count costs by each plan; None: each that cards are for."""
        asked = {plan for plan, _ in self._cards} if plans is None else plans
        return [self._by_plan(plan, item, count) for plan in asked]

    def of(self, user: str, item: str, count: _Count) -> Fraction:
        """Return what a count of a user's item costs."""
        return self._by_plan(self._plans.get(user), item, count)

    def _by_plan(self, plan: str | None, item: str, count: _Count) -> Fraction:
        places = ((plan, item), (None, item), (plan, None), (None, None))
        rows = next((self._cards[place] for place in places if place in self._cards), None)
        if rows is None:
            return count.stored
        units = Fraction(count.calls) if rows[0]["unit"] == "call" else count.quantity
        return _price(rows, abs(units)) * (-1 if units < 0 else 1)


def _price(rows: Sequence[Mapping[str, Any]], units: Fraction) -> Fraction:
    model = rows[0]["model"]
    if model == "package":
        size = Fraction(rows[0]["package_size"])
        return -(-units // size) * Fraction(rows[0]["unit_price_cents"])
    tiers = sorted(rows, key=lambda row: (row["up_to"] is None, Fraction(row["up_to"] or 0)))
    ends = [units if row["up_to"] is None else min(units, Fraction(row["up_to"])) for row in tiers]
    prices = [Fraction(row["unit_price_cents"]) for row in tiers]
    if model == "volume":
        return units * prices[ends.index(units)]
    return sum(
        (
            (end - start) * price
            for start, end, price in zip([Fraction(0), *ends], ends, prices, strict=False)
        ),
        Fraction(0),
    )


def _counts(frozen: FrozenUsage) -> defaultdict[_Item, _Count]:
    has_item, has_quantity = frozen.manifest.detail.items_by, frozen.manifest.detail.has_quantity
    found: defaultdict[_Item, _Count] = defaultdict(_Count)
    with open_duckdb(frozen.directory.parent) as duck:
        rows = duck.execute(
            f"SELECT user_id::VARCHAR AS u, {_ITEM if has_item else _NO_ITEM} AS i, {calls_in(frozen)}, "
            f"{'sum(quantity)' if has_quantity else '0'}::VARCHAR, sum(cost_cents)::VARCHAR "
            f"FROM {parquet_list(frozen.paths)} GROUP BY u, i"
        )
        while several := rows.fetchmany(10_000):
            for user, item, calls, quantity, stored in several:
                found[user, item].add(calls, quantity, stored)
    return found


def _late_rows(version: FrozenUsage, month: str) -> Iterator[Mapping[str, Any]]:
    if version.manifest.late is None:
        return
    with pq.ParquetFile(version.path(version.manifest.late.file)) as file:
        for row in file.read().to_pylist():
            if row["usage_month"] == month and row.get("item") is not None:
                yield row


def _decimal(cents: Fraction) -> Decimal:
    whole = cents * 10**_PLACES
    if whole.denominator != 1:
        raise ValueError(f"{cents} cents have more than {_PLACES} decimal places")
    # Written as text: arithmetic would round to 28 digits.
    return Decimal(f"{whole.numerator}E-{_PLACES}")
