"""Settings of the review before the first invoice: how far from the past a month, or a user, may be."""

from dataclasses import dataclass
from functools import cached_property

from spell_billing.core.errors import SettingsError
from spell_billing.core.plausible import HoldRules
from spell_billing.core.review import ReviewRules
from spell_billing.environment import EnvironmentSettings

_MOST = 10**12
_WHOLE = 100
_UP_AND_DOWN = 2


@dataclass(frozen=True, repr=False)
class ReviewSettings(EnvironmentSettings):
    """The settings of the review, each with its default."""

    @cached_property
    def review_rules(self) -> ReviewRules:
        """`REVIEW_PAST_PERCENT` (5), `REVIEW_MONTH_PERCENT` (50,200), `REVIEW_FLOOR_CENTS` (10000)."""
        down, up = self._down_and_up()
        return ReviewRules(
            past_percent=self._number("REVIEW_PAST_PERCENT", "5", of="per cent", most=_WHOLE),
            down_percent=down,
            up_percent=up,
            floor_cents=self._number("REVIEW_FLOOR_CENTS", "10000", of="minor units"),
        )

    @cached_property
    def hold_rules(self) -> HoldRules:
        """`HOLD_OVER_CENTS` (unset), `HOLD_OVER_MULTIPLE` (10), `HOLD_FLOOR_CENTS` (50000)."""
        over = self._text("HOLD_OVER_CENTS")
        return HoldRules(
            over_cents=None if over is None else self._number("HOLD_OVER_CENTS", over, of="minor units"),
            multiple=self._number("HOLD_OVER_MULTIPLE", "10", of="times", least=1),
            floor_cents=self._number("HOLD_FLOOR_CENTS", "50000", of="minor units"),
        )

    def _down_and_up(self) -> tuple[int, int]:
        text = self._text("REVIEW_MONTH_PERCENT") or "50,200"
        numbers = [_whole_number(part.strip()) for part in text.split(",")]
        if len(numbers) == _UP_AND_DOWN:
            down, up = numbers
            if down is not None and up is not None and 0 < down <= _WHOLE and 0 < up <= _MOST:
                return down, up
        raise SettingsError(
            f"REVIEW_MONTH_PERCENT={text!r} is not two numbers, down and up.",
            remedy=f"Write how many per cent less (1 to {_WHOLE}) and more (from 1) are usual, as 50,200.",
        )

    def _number(self, name: str, default: str, *, of: str, least: int = 0, most: int = _MOST) -> int:
        text = self._text(name) or default
        number = _whole_number(text)
        if number is None or not least <= number <= most:
            raise SettingsError(
                f"{name}={text!r} is not a number of {of}.",
                remedy=f"Write a whole number from {least} to {most}, as {default}.",
            )
        return number


def _whole_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(_MOST)) else None
