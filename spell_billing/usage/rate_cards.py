"""The platform's rate cards: read with the month, frozen beside its rows, and applied to what users have."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from spell_billing.core.drafting import LARGEST
from spell_billing.core.errors import UsageError
from spell_billing.core.money import plain
from spell_billing.core.month import Month
from spell_billing.core.rate_cards import (
    MOST_PLACES,
    RATE_CARDS_TABLE,
    CardRow,
    RateCard,
    Unit,
    card_for,
    cards_of,
    rated_cents,
    read_cards,
    require_packages,
)
from spell_billing.usage.disk import finished_file
from spell_billing.usage.frozen import RATE_CARDS_FILE, FrozenRates, FrozenUsage
from spell_billing.usage.tables import COLUMNS, PLANS_TABLE, USAGE_TABLE, Columns, texts, unsuitable_type

USER_PLANS_FILE = "user_plans.parquet"
_FLOATS = frozenset({"float", "float4", "float8", "real", "double", "double precision"})
_NUMBERS = ("up_to", "unit_price_cents", "package_size")


@dataclass(frozen=True)
class RateCards:
    """The cards that price one month, as rows and as read."""

    rows: Sequence[CardRow]
    cards: Mapping[tuple[str | None, str | None], RateCard]

    @property
    def has_plans(self) -> bool:
        """Whether a card is of one plan alone."""
        return any(plan_id for plan_id, _ in self.cards)

    @property
    def has_quantity(self) -> bool:
        """Whether a card prices a quantity."""
        return any(card.unit is Unit.QUANTITY for card in self.cards.values())

    def card_for(self, plan_id: str | None, item: str) -> RateCard | None:
        """Return the card that prices an item of a user with a plan."""
        return card_for(self.cards, plan_id, item)

    def names_without(self, used: Collection[int]) -> tuple[str, ...]:
        """Return the cards in words, without those with these identities."""
        names = {(row.plan_id, row.item): row.name for row in self.rows}
        return tuple(names[place] for place, card in self.cards.items() if id(card) not in used)

    def charge_scale(self, cost_scale: int) -> int:
        """Return the decimal places that amounts may have, beside stored costs of so many places."""
        prices = (tier.unit_price_cents for card in self.cards.values() for tier in card.tiers)
        places = max((max(0, -int(price.as_tuple().exponent)) for price in prices), default=0)
        return max(cost_scale, places + (MOST_PLACES if self.has_quantity else 0))

    def freeze(self, directory: Path, last_plans: pa.Table | None, cost_scale: int) -> FrozenRates:
        """Write the cards, and who has which plan where a card asks for it, beside a month's rows."""
        columns = {name: texts(getattr(row, name) for row in self.rows) for name in COLUMNS[RATE_CARDS_TABLE]}
        pq.write_table(pa.table(columns), directory / RATE_CARDS_FILE)
        plans = None
        if last_plans is not None:
            with_plan = last_plans.filter(last_plans["plan_id"].is_valid())
            pq.write_table(with_plan.sort_by("user_id"), directory / USER_PLANS_FILE)
            plans = finished_file(directory / USER_PLANS_FILE, len(with_plan))
        return FrozenRates(
            finished_file(directory / RATE_CARDS_FILE, len(self.rows)),
            plans,
            self.has_quantity,
            self.charge_scale(cost_scale),
        )

    def price(
        self, user_id: str, plan_id: str | None, item: str, counts: Iterable["Counts"]
    ) -> list[Decimal] | None:
        """Return what each of these counts of one user's item costs; None where no card prices it.

        Raises:
            UsageError: a call without the quantity that is priced; an absurd amount.
        """
        card = self.card_for(plan_id, item)
        if card is None:
            return None
        found = []
        for each in counts:
            if card.unit is Unit.QUANTITY and each.measured != each.calls:
                raise UsageError(
                    f"{abs(each.calls - each.measured):,} calls of user {user_id} and item {item} have no "
                    f"quantity, which {RATE_CARDS_TABLE} prices.",
                    remedy=f"Fill in {USAGE_TABLE}.quantity (0 for what is free), and bill the month again.",
                )
            units = Decimal(each.calls) if card.unit is Unit.CALL else each.quantity
            cents = rated_cents(card, units)
            if abs(cents) > LARGEST:
                of = f"{each.calls:,} calls" if card.unit is Unit.CALL else f"a quantity of {plain(units)}"
                raise UsageError(
                    f"User {user_id} has {of} of item {item}, which come to {plain(cents)} cents by "
                    f"{RATE_CARDS_TABLE}: more than 64 bits hold.",
                    remedy=f"Correct it in {USAGE_TABLE}, or the price, and bill the month again.",
                )
            found.append(cents)
        return found


@dataclass(frozen=True, slots=True)
class Counts:
    """Calls, how many of them have a quantity, and its sum."""

    calls: int
    measured: int
    quantity: Decimal


def refuse_floats(found: Columns) -> None:
    """Refuse, with a UsageError, a table of cards whose numbers are floats."""
    for name in _NUMBERS:
        if name in found and found[name].type in _FLOATS:
            raise unsuitable_type(RATE_CARDS_TABLE, name, found[name].type, "numeric or text")


def read_rate_cards(
    table: pa.Table, month: Month, usage: Columns, *, items_by: str | None
) -> RateCards | None:
    """Return the cards that price a month; None where there are none.

    Args:
        table: All cards, as text.
        month: The month.
        usage: The columns of usage.
        items_by: The column whose values are the items.

    Raises:
        UsageError: a card cannot be used, or asks for what the rows do not have.
    """
    rows = cards_of(_card_rows(table), month)
    if not rows:
        return None
    cards = RateCards(rows, read_cards(rows))
    # Only where cards are read anew: a month that was frozen with one must stay readable.
    require_packages(rows)
    named = next((row for row in rows if row.item is not None), None)
    if named is not None and items_by is None:
        raise UsageError(
            f"{named.name} in {RATE_CARDS_TABLE} cannot be used: LINE_ITEMS_BY is not set, and no call "
            "has an item.",
            remedy=f"Set LINE_ITEMS_BY to the column of {USAGE_TABLE} that the items are values of.",
        )
    if cards.has_quantity and "quantity" not in usage:
        raise UsageError(
            f"{RATE_CARDS_TABLE} prices a quantity, and {USAGE_TABLE} has no column quantity.",
            remedy=f"Add it to {USAGE_TABLE}, or write call as the unit of each card.",
        )
    return cards


def require_known_plans(cards: RateCards, plans: Collection[str | None]) -> None:
    """Refuse, with a UsageError, a card of a plan that does not exist: it would price nothing."""
    unknown = next((row for row in cards.rows if row.plan_id is not None and row.plan_id not in plans), None)
    if unknown is not None:
        raise UsageError(
            f"{unknown.name} in {RATE_CARDS_TABLE} cannot be used: {PLANS_TABLE} does not have its plan.",
            remedy=f"Correct its plan_id, or add the plan to {PLANS_TABLE}.",
        )


def frozen_cards(frozen: FrozenUsage) -> RateCards | None:
    """Return the cards that were frozen with a month; None where there were none."""
    if frozen.manifest.rates is None:
        return None
    with pq.ParquetFile(frozen.path(frozen.manifest.rates.cards)) as file:
        rows = [CardRow(**row) for row in file.read().to_pylist()]
    return RateCards(rows, read_cards(rows))


def require_exact_quantities(month: Month, found: Sequence[tuple[str, str]]) -> None:
    """Refuse rows, given as (id, quantity), whose quantity is not exact."""
    if found:
        named = "; ".join(f"id {row_id}: {quantity}" for row_id, quantity in found)
        raise UsageError(
            f"{USAGE_TABLE} has quantities in {month} that cannot be priced exactly: {named}.",
            remedy=f"Write numbers with up to {MOST_PLACES} decimal places; in SQLite, whole numbers.",
        )


def _card_rows(table: pa.Table) -> Iterator[CardRow]:
    for row in table.to_pylist():
        yield msgspec.convert({name: (text or "").strip() or None for name, text in row.items()}, CardRow)
