"""Bar charts as SVG, laid out in whole units: months from left to right, whole amounts upwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spell_billing.core.month import Month

WIDTH, HEIGHT = 640, 256
_RIGHT, _TOP, _BOTTOM = 8, 28, 32
_LETTER, _MARGIN = 8, 16
"""The most that a letter of a tick is wide, and the room beside them."""
_FEWEST_SLOTS = 6
_LINES = 4
_FLOOR = HEIGHT - _BOTTOM


@dataclass(frozen=True, slots=True)
class Column:
    """A month's bar: its value (never below 0), and how high it is expected to become.

    `is_so_far`: the month is not over.
    """

    month: Month
    value: int
    expected: int | None = None
    is_so_far: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A column in words and in place: `x` and `width`, and for bar and expectation the top and the height."""

    column: Column
    text: str
    expected_text: str
    x: int
    width: int
    y: int
    height: int
    expected_y: int
    expected_height: int


@dataclass(frozen=True, slots=True)
class Line:
    """A line across the chart, with the amount that it stands for."""

    y: int
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart that is laid out; `name` is unique in a page, `title` and `description` say what it shows."""

    name: str
    title: str
    description: str
    unit: str
    bars: Sequence[Bar]
    lines: Sequence[Line]
    left: int
    width: int = WIDTH
    height: int = HEIGHT
    right: int = WIDTH - _RIGHT
    label_y: int = HEIGHT - _BOTTOM // 3

    @property
    def has_expectation(self) -> bool:
        """Whether any bar is expected to grow."""
        return any(bar.column.expected is not None for bar in self.bars)


def bar_chart(
    name: str, title: str, *, unit: str, columns: Sequence[Column], write: Callable[[int], str]
) -> Chart:
    """Lay out at least one column, from left to right.

    The name is unique in its page, of letters, digits and hyphens; `write` writes a value for people.
    """
    step = _step(max(max(each.value, each.expected or 0) for each in columns))

    def top(value: int) -> int:
        return _FLOOR - value * (_FLOOR - _TOP) // (step * _LINES)

    lines = [Line(top(step * number), write(step * number)) for number in range(_LINES + 1)]
    left = _MARGIN + _LETTER * max(len(line.text) for line in lines)
    slot = (WIDTH - left - _RIGHT) // max(len(columns), _FEWEST_SLOTS)
    width = slot * 7 // 10
    bars = [
        Bar(
            column=each,
            text=f"{write(each.value)} so far" if each.is_so_far else write(each.value),
            expected_text="" if each.expected is None else write(each.expected),
            x=left + place * slot + (slot - width) // 2,
            width=width,
            y=top(each.value),
            height=_FLOOR - top(each.value),
            expected_y=top(each.expected or 0),
            expected_height=_FLOOR - top(each.expected or 0),
        )
        for place, each in enumerate(columns)
    ]
    highest = max(bars, key=lambda bar: bar.column.value)
    description = (
        f"From {columns[0].month.label} to {columns[-1].month.label}, month by month. "
        f"The highest is {highest.column.month.label} with {highest.text}; the latest is {bars[-1].text}."
    )
    return Chart(name, title, description, unit, bars, lines, left)


def _step(largest: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50 ... that reaches the largest value in a few lines."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if step * _LINES >= largest:
                return step
        power *= 10
