"""Settings of the review before the first invoice: how far from the past a month, or a user, may be."""

from dataclasses import dataclass
from functools import cached_property

from spell_billing.core.errors import SettingsError
from spell_billing.core.plausible import HoldRules
from spell_billing.core.review import ReviewRules
from spell_billing.settings.environment import MOST, EnvironmentSettings

_WHOLE = 100
_UP_AND_DOWN = 2


@dataclass(frozen=True, repr=False)
class ReviewSettings(EnvironmentSettings):
    """The settings of the review, each with its default."""

    @cached_property
    def past_percent(self) -> int:
        """`REVIEW_PAST_PERCENT`: how many per cent of a billed month's users or cents may change afterwards.

        Beyond it the next month is held for approval. 0 to 100. See
        [operations](operations.md#a-month-is-in-review).

        Default: 5.
        """
        return self._number("REVIEW_PAST_PERCENT", 5, of="per cent", most=_WHOLE)

    @cached_property
    def month_percent(self) -> tuple[int, int]:
        """`REVIEW_MONTH_PERCENT`: how many per cent less, and more, a month may be than the ones before.

        Users, calls and amount are each compared with their mean in the last three billed months.

        Default: `50,200`.
        """
        name = "REVIEW_MONTH_PERCENT"
        numbers = self._numbers(name, "50,200")
        if len(numbers) != _UP_AND_DOWN or not all(numbers) or numbers[0] > _WHOLE:
            raise SettingsError(
                f"{name}={self._text(name)!r} is not two numbers, down and up.",
                remedy="Write how many per cent less (1 to 100) and more (from 1) are usual, as 50,200.",
            )
        down, up = numbers
        return down, up

    @cached_property
    def review_floor_cents(self) -> int:
        """`REVIEW_FLOOR_CENTS`: a month that differs by no more than this is not held for review.

        In minor units of its currency.

        Default: 10000.
        """
        return self._number("REVIEW_FLOOR_CENTS", 10_000, of="minor units")

    @cached_property
    def hold_over_cents(self) -> int | None:
        """`HOLD_OVER_CENTS`: hold every bill above this, in minor units.

        Default: none.
        """
        if self._text("HOLD_OVER_CENTS") is None:
            return None
        return self._number("HOLD_OVER_CENTS", MOST, of="minor units")

    @cached_property
    def hold_over_multiple(self) -> int:
        """`HOLD_OVER_MULTIPLE`: hold a bill above this many times what the user usually pays.

        That is the user's mean of the last three billed months. Only a bill above `HOLD_FLOOR_CENTS` is held.

        Default: 10.
        """
        return self._number("HOLD_OVER_MULTIPLE", 10, of="times", least=1)

    @cached_property
    def hold_floor_cents(self) -> int:
        """`HOLD_FLOOR_CENTS`: never hold a bill up to this, in minor units, for being unusual.

        Default: 50000.
        """
        return self._number("HOLD_FLOOR_CENTS", 50_000, of="minor units")

    @cached_property
    def approvals(self) -> int:
        """`APPROVALS`: how many people must approve a month in review before it is sent.

        1 or 2. With 2, each approves by name: two people of `ADMIN_SECRETS`, or of the command line. What
        counts is the setting of the run that reviewed the month.

        Default: 1.
        """
        return self._number("APPROVALS", 1, of="people", least=1, most=2)

    @property
    def review_rules(self) -> ReviewRules:
        """When a month is held for review."""
        down, up = self.month_percent
        return ReviewRules(self.past_percent, down, up, self.review_floor_cents)

    @property
    def hold_rules(self) -> HoldRules:
        """When a bill is held."""
        return HoldRules(self.hold_over_cents, self.hold_over_multiple, self.hold_floor_cents)
