"""Other rate cards in a simulation: which price a month, and what each user's frozen calls cost by them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from spell_billing.core.errors import UsageError
from spell_billing.core.month import Month
from spell_billing.core.rate_cards import CardRow, cards_of, read_cards, require_packages
from spell_billing.reporting.new_pricing import NewPricing
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.plan_book import PlanBook
from spell_billing.usage.rate_cards import RateCards, frozen_cards
from spell_billing.usage.rated_items import frozen_plans, rated_costs
from spell_billing.usage.store import UsageStore


@dataclass
class NewCards:
    """The cards of other prices, applied to one month after another.

    Args:
        store: Has the months' frozen rows, which are verified before they are priced.
        pricing: The other prices.
        name: Of the file, for messages.

    Raises:
        UsageError: a card cannot be used.
    """

    store: UsageStore
    pricing: NewPricing
    name: str
    _used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Refuse cards that cannot be used, those of other months too."""
        self._rows = [CardRow(**each.model_dump()) for each in self.pricing.rate_cards or ()]
        try:
            require_packages(self._rows)
            read_cards(self._rows)
        except UsageError as error:
            raise UsageError(f"{self.name}: {error.message}", remedy=error.remedy) from None

    @property
    def unused(self) -> tuple[str, ...]:
        """The file's cards, in words, that priced nothing in any month: an item may be misspelt."""
        return tuple(dict.fromkeys(row.name for row in self._rows if row.name not in self._used))

    def costs(self, frozen: FrozenUsage, users: Sequence[str], after: PlanBook) -> dict[str, str] | None:
        """Return what each user's calls of a month cost, in cents as text; None: what they cost then.

        `after` has the plans under the other prices. Cards that the file does not replace are applied anew
        only where users are on other plans.

        Raises:
            UsageError: a card prices items or quantities that the month was frozen without.
            IntegrityError: the frozen rows were altered.
        """
        cards = self._cards_of(frozen)
        if cards is None:
            return None
        self._require_detail(cards, frozen)
        self.store.verify(frozen)
        costs, unused = rated_costs(frozen, cards, self._plans(frozen, users, after))
        self._used |= {row.name for row in cards.rows}.difference(unused)
        return costs

    def _cards_of(self, frozen: FrozenUsage) -> RateCards | None:
        if self.pricing.rate_cards is not None:
            rows = cards_of(self._rows, frozen.month)
            return RateCards(rows, read_cards(rows))
        moves = self.pricing.everyone is not None or bool(self.pricing.move)
        cards = frozen_cards(frozen) if moves else None
        return cards if cards is not None and cards.has_plans else None

    def _plans(self, frozen: FrozenUsage, users: Sequence[str], after: PlanBook) -> dict[str, str | None]:
        """Return the plan of each user that prices the month: the last one of it."""
        then = frozen_plans(frozen)
        move = self.pricing.move
        plans: dict[str, str | None] = {}
        for user in users:
            plan = after.plan_of(user) if after.has_plan(user) else None
            of_then = then.get(user, "")
            plans[user] = plan.plan_id if plan else move.get(of_then, of_then) or None
        return plans

    def _require_detail(self, cards: RateCards, frozen: FrozenUsage) -> None:
        detail, month = frozen.manifest.detail, frozen.month
        named = next((row for row in cards.rows if row.item is not None), None)
        if named is not None and detail.items_by is None:
            raise self._lacking(month, named.name, "items", "every item")
        measured = next((row for row in cards.rows if row.unit == "quantity"), None)
        if measured is not None and not detail.has_quantity:
            raise self._lacking(month, measured.name, "quantities", "calls")

    def _lacking(self, month: Month, card: str, what: str, instead: str) -> UsageError:
        return UsageError(
            f"{self.name}: {card} cannot be used for {month}, which was frozen without {what}.",
            remedy=f"Simulate months that have them, or give cards of {instead}.",
        )
