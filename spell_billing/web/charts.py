"""Bar charts as SVG, laid out in whole units: months from left to right, whole amounts upwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 240
_RIGHT, _TOP, _BOTTOM = 8, 16, 28
_LETTER, _MARGIN = 8, 16
"""A letter of a tick is at most so wide, and so much room is beside them."""
_FEWEST_SLOTS = 6
_LINES = 4
_ROOM = _BOTTOM + _TOP


@dataclass(frozen=True, slots=True)
class Column:
    """What stands at one place of a chart.

    Attributes:
        label: Below the bar, a few letters.
        name: In full.
        value: How high the bar is, never below 0.
        text: The value for people.
        expected: How high it is expected to become; None where nothing is.
        expected_text: The expectation for people.
    """

    label: str
    name: str
    value: int
    text: str
    expected: int | None = None
    expected_text: str | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A column with its place: `x` and `width`, and for bar and expectation the top and the height."""

    column: Column
    x: int
    width: int
    y: int
    height: int
    expected_y: int
    expected_height: int

    @property
    def middle(self) -> int:
        """Where the label stands."""
        return self.x + self.width // 2


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
    """Lay a chart out.

    Args:
        name: Unique in its page: letters, digits and hyphens.
        title: What it shows.
        unit: What its values are, as the heading of a table's column.
        columns: From left to right; at least one.
        write: Writes a value for people.
    """
    largest = max(max(each.value, each.expected or 0) for each in columns)
    step = _step(largest)
    top = step * _LINES
    lines = [Line(_y(step * number, top), write(step * number)) for number in range(_LINES + 1)]
    left = _MARGIN + _LETTER * max(len(line.text) for line in lines)
    slot = (WIDTH - left - _RIGHT) // max(len(columns), _FEWEST_SLOTS)
    bars = [_bar(each, left + place * slot, slot, top) for place, each in enumerate(columns)]
    highest = max(columns, key=lambda each: each.value)
    description = (
        f"From {columns[0].name} to {columns[-1].name}, month by month. "
        f"The highest is {highest.name} with {highest.text}; the latest is {columns[-1].text}."
    )
    return Chart(name, title, description, unit, bars, lines, left)


def _bar(column: Column, start: int, slot: int, top: int) -> Bar:
    width = slot * 7 // 10
    y, expected_y = _y(column.value, top), _y(column.expected or 0, top)
    floor = _y(0, top)
    return Bar(
        column=column,
        x=start + (slot - width) // 2,
        width=width,
        y=y,
        height=floor - y,
        expected_y=expected_y,
        expected_height=floor - expected_y,
    )


def _y(value: int, top: int) -> int:
    return HEIGHT - _BOTTOM - value * (HEIGHT - _ROOM) // top


def _step(largest: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50 ... that reaches the largest value in a few lines."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if step * _LINES >= largest:
                return step
        power *= 10
