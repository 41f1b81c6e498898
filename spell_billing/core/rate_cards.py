"""Rate cards: what calls, or a quantity, cost by price instead of by what was stored. Exact, and pure.

A card prices a month's calls or quantity of one user and item as a whole, so that its tiers are those of the
month. Nothing is rounded here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal, localcontext
from enum import StrEnum
from itertools import groupby
from typing import TypeVar

import msgspec

from spell_billing.core.errors import UsageError
from spell_billing.core.money import EXACT
from spell_billing.core.month import Month

RATE_CARDS_TABLE = "rate_cards"
MOST_PLACES = 9
"""Decimal places of a price and of a quantity: together as many as a stored cost may have."""
_NUMBER = re.compile(rf"-?(?=[0-9])0*[0-9]{{0,18}}(\.[0-9]{{0,{MOST_PLACES}}}0*)?")
_Choice = TypeVar("_Choice", bound=StrEnum)


class Model(StrEnum):
    """How a card makes an amount of a number of units."""

    FLAT = "flat"
    GRADUATED = "graduated"
    VOLUME = "volume"
    PACKAGE = "package"


class Unit(StrEnum):
    """What a card counts."""

    CALL = "call"
    QUANTITY = "quantity"


class CardRow(msgspec.Struct, frozen=True):
    """A row of `rate_cards` as read: text, or None for null or blank. Several make the tiers of one card."""

    plan_id: str | None
    item: str | None
    model: str | None
    unit: str | None
    up_to: str | None
    unit_price_cents: str | None
    package_size: str | None
    valid_from: str | None

    @property
    def place(self) -> str:
        """What the card prices, in words."""
        plan = f"plan {self.plan_id}" if self.plan_id else "every plan"
        return f"{plan} and {f'item {self.item}' if self.item else 'every item'}"

    @property
    def name(self) -> str:
        """The card in words."""
        return f"The rate card of {self.place} from {self.valid_from or 'the beginning'}"


class Tier(msgspec.Struct, frozen=True):
    """Units up to a number, which belongs to it (None: all further ones), and the price of each."""

    up_to: Decimal | None
    unit_price_cents: Decimal


class RateCard(msgspec.Struct, frozen=True):
    """A card that was found sound; its tiers rise. A package has one: the price of each begun package."""

    model: Model
    unit: Unit
    tiers: tuple[Tier, ...]
    package_size: Decimal = Decimal(1)


Cards = Mapping[tuple[str | None, str | None], RateCard]
"""The cards of a month by plan and item, None for every one."""


def cards_of(rows: Iterable[CardRow], month: Month) -> list[CardRow]:
    """Return the rows of the cards that price a month: for each plan and item, the newest at its start.

    Raises:
        UsageError: a date that cannot be read.
    """
    newest: dict[tuple[str, str], list[CardRow]] = {}
    for (plan_id, item, _), group in groupby(sorted(rows, key=_place_of_card), key=_place_of_card):
        card = list(group)
        if _valid_from(card[0]) <= month.start.date():
            newest[plan_id, item] = card
    return [row for card in newest.values() for row in card]


def read_cards(rows: Iterable[CardRow]) -> dict[tuple[str | None, str | None], RateCard]:
    """Return the cards that rows make, one for each plan and item.

    Raises:
        UsageError: naming the card whose rows make none.
    """
    return {
        (card[0].plan_id, card[0].item): _read_card(card)
        for card in (list(group) for _, group in groupby(sorted(rows, key=_place), key=_place_of_card))
    }


def require_packages(rows: Iterable[CardRow]) -> None:
    """Refuse, with a UsageError, cards that have a package size and charge it for each unit."""
    for row in rows:
        # A column that is never null has 0 or 1 where there are no packages.
        if row.model == Model.PACKAGE or row.package_size is None or _decimal(row, "package_size") in {0, 1}:
            continue
        why = f"it is {row.model}, and package_size is {row.package_size!r}"
        raise _refused(row, why, "Write package as its model, or null as its package_size.")


def card_for(cards: Cards, plan_id: str | None, item: str) -> RateCard | None:
    """Return the card of a user's item: by plan and item, else by item, by plan, or the general one."""
    place = place_for(cards, plan_id, item)
    return None if place is None else cards[place]


def place_for(cards: Cards, plan_id: str | None, item: str) -> tuple[str | None, str | None] | None:
    """Return the plan and item that the card of a user's item is for; None where no card prices it."""
    places = ((plan_id, item), (None, item), (plan_id, None), (None, None))
    return next((place for place in places if place in cards), None)


def rated_cents(card: RateCard, units: Decimal) -> Decimal:
    """Return what a number of units costs, exactly; below zero, it gives back what its opposite costs."""
    if units < 0:
        return rated_cents(card, units.copy_negate()).copy_negate()
    with localcontext(EXACT):
        if card.model is Model.PACKAGE:
            whole, rest = divmod(units, card.package_size)
            return (whole + (1 if rest else 0)) * card.tiers[0].unit_price_cents
        if card.model is Model.GRADUATED:
            return _graduated(card.tiers, units)
        price = next(
            each.unit_price_cents for each in card.tiers if each.up_to is None or units <= each.up_to
        )
        return units * price


def _graduated(tiers: Sequence[Tier], units: Decimal) -> Decimal:
    below, cents = Decimal(0), Decimal(0)
    for tier in tiers:
        end = units if tier.up_to is None else min(units, tier.up_to)
        cents += (end - below) * tier.unit_price_cents
        below = end
        if below == units:
            break
    return cents


def _place(row: CardRow) -> tuple[str, str, date, Decimal]:
    up_to = Decimal("Infinity") if row.up_to is None else _decimal(row, "up_to")
    return (*_place_of_card(row), up_to)


def _place_of_card(row: CardRow) -> tuple[str, str, date]:
    return row.plan_id or "", row.item or "", _valid_from(row)


def _valid_from(row: CardRow) -> date:
    if row.valid_from is None:
        return date.min
    # A column of times has the date before a blank.
    day, _, _ = row.valid_from.replace("T", " ").partition(" ")
    try:
        return date.fromisoformat(day)
    except ValueError:
        raise _refused(row, f"valid_from is {row.valid_from!r}", "Write a date, as 2026-01-01.") from None


def _read_card(rows: Sequence[CardRow]) -> RateCard:
    first = rows[0]
    if any(
        (row.model, row.unit, row.package_size) != (first.model, first.unit, first.package_size)
        for row in rows
    ):
        raise _refused(first, "there are two with that date", "Leave one, or give them different dates.")
    model = _choice(first, Model, "model")
    unit = _choice(first, Unit, "unit")
    tiers = tuple(_tier(row) for row in rows)
    ends = [each.up_to for each in tiers]
    if len(set(ends)) < len(ends):
        twice = next(end for end in ends if ends.count(end) > 1)
        raise _refused(
            first,
            "two of its rows have no up_to" if twice is None else f"two tiers overlap: both end at {twice:f}",
            "Leave one row for each end, and one card for each date.",
        )
    if ends[-1] is not None:
        raise _refused(
            first, "its last tier is missing", "Add a row whose up_to is null, for all further units."
        )
    if model in {Model.FLAT, Model.PACKAGE} and len(tiers) > 1:
        raise _refused(
            first, f"it is {model} and has tiers", "Leave the row whose up_to is null, or make it graduated."
        )
    size = Decimal(1)
    if model is Model.PACKAGE:
        size = _decimal(first, "package_size")
        if size <= 0:
            raise _refused(first, f"package_size is {first.package_size!r}", "Write a number above zero.")
    return RateCard(model, unit, tiers, size)


def _tier(row: CardRow) -> Tier:
    price = _decimal(row, "unit_price_cents")
    if price < 0:
        raise _refused(row, f"unit_price_cents is {row.unit_price_cents!r}", "Write a price of zero or more.")
    up_to = None if row.up_to is None else _decimal(row, "up_to")
    if up_to is not None and up_to <= 0:
        raise _refused(
            row, f"up_to is {row.up_to!r}", "Write a number above zero, or null for the last tier."
        )
    return Tier(up_to, price)


def _decimal(row: CardRow, name: str) -> Decimal:
    text: str | None = getattr(row, name)
    if text is None or not _NUMBER.fullmatch(text):
        remedy = f"Write a number with up to {MOST_PLACES} decimal places, as text or numeric."
        raise _refused(row, f"{name} is {text!r}", remedy)
    # Without needless zeros, which would count as decimal places.
    return Decimal(text.rstrip("0") if "." in text else text)


def _choice(row: CardRow, choices: type[_Choice], name: str) -> _Choice:
    text = getattr(row, name)
    try:
        return choices(text)
    except ValueError:
        words = " or ".join(choices)
        raise _refused(row, f"{name} is {text!r}", f"Write {words}.") from None


def _refused(row: CardRow, why: str, remedy: str) -> UsageError:
    return UsageError(f"{row.name} in {RATE_CARDS_TABLE} cannot be used: {why}.", remedy=remedy)
