"""The figures: each beside its floor and its target, as a table, as Markdown and as a chart."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from io import StringIO

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

_MIB = 1 << 20
_CHART_WIDTH = 118
_BAR_WIDTH = 60
_BAR_END = 1.5
"""The chart shows up to one and a half times the target."""


class Kind(Enum):
    """How a figure is held against its target."""

    RATIO = "x floor"
    BEYOND = "s beyond"
    AT_MOST = "at most"
    AT_LEAST = "at least"
    SHOWN = "for comparison"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured point: what, its floor, ours, in one unit; the target and the limit of memory.

    Attributes:
        subject: Which benchmark.
        what: What was done, with its size.
        floor_is: What sets the floor.
        floor: The floor, in `unit`.
        ours: Ours, in `unit`.
        unit: `s`, `invoices/s`, `ms CPU/request`.
        kind: How it is held against the target.
        target: In `unit`, or times the floor.
        peak_bytes: Peak memory of the process that did it.
        peak_target_bytes: Its limit.
    """

    subject: str
    what: str
    floor_is: str
    floor: float
    ours: float
    unit: str = "s"
    kind: Kind = Kind.SHOWN
    target: float = 0.0
    peak_bytes: int = 0
    peak_target_bytes: int = 0

    @property
    def ratio(self) -> float:
        """Ours over the floor."""
        return self.ours / self.floor if self.floor else 0.0

    @property
    def share(self) -> float:
        """How much of the target is used up, of time or of memory: up to 1.0 it is met."""
        value = {
            Kind.RATIO: lambda: self.ratio / self.target,
            Kind.BEYOND: lambda: max(0.0, self.ours - self.floor) / self.target,
            Kind.AT_MOST: lambda: self.ours / self.target,
            Kind.AT_LEAST: lambda: self.target / self.ours,
            Kind.SHOWN: lambda: 0.0,
        }[self.kind]()
        memory = self.peak_bytes / self.peak_target_bytes if self.peak_target_bytes else 0.0
        return max(value, memory)

    @property
    def met(self) -> str:
        """Whether the target is met; empty for what is shown for comparison only."""
        if self.kind is Kind.SHOWN and not self.peak_target_bytes:
            return ""
        return "yes" if self.share <= 1.0 else "no"

    @property
    def target_text(self) -> str:
        """The target in words."""
        words = {
            Kind.RATIO: f"<= {self.target:g} x floor",
            Kind.BEYOND: f"<= floor + {self.target:g} {self.unit}",
            Kind.AT_MOST: f"<= {self.target:g} {self.unit}",
            Kind.AT_LEAST: f">= {self.target:g} {self.unit}",
            Kind.SHOWN: "",
        }[self.kind]
        memory = f"<= {self.peak_target_bytes / _MIB:,.0f} MB" if self.peak_target_bytes else ""
        return ", ".join(part for part in (words, memory) if part)

    def cells(self) -> list[str]:
        """Give the figure's row of the table."""
        return [
            self.what,
            f"{_number(self.floor)} {self.unit} ({self.floor_is})" if self.floor else self.floor_is,
            f"{_number(self.ours)} {self.unit}",
            f"{self.ratio:.2f}" if self.floor else "",
            self.target_text,
            f"{self.peak_bytes / _MIB:,.0f} MB" if self.peak_bytes else "",
            self.met,
        ]


_COLUMNS = ("what", "floor", "measured", "ratio", "target", "peak memory", "met")


def table(figures: Iterable[Figure]) -> Table:
    """Give the table for a terminal."""
    shown = Table(*_COLUMNS, title="Each figure beside its floor, of the same run")
    subject = ""
    for figure in figures:
        if figure.subject != subject:
            shown.add_section()
            subject = figure.subject
        shown.add_row(*figure.cells(), style={"no": "red", "yes": "green"}.get(figure.met, "dim"))
    return shown


def markdown(figures: Iterable[Figure]) -> str:
    """Give the table as Markdown."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(figure.cells() for figure in figures)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def chart(figures: Sequence[Figure]) -> str:
    """Give a chart as SVG: how much of its target each figure uses up."""
    console = Console(record=True, width=_CHART_WIDTH, file=StringIO(), force_terminal=True)
    grid = Table("what", "used up", "", box=None, pad_edge=False)
    for figure in figures:
        if figure.met:
            colour = "green" if figure.met == "yes" else "red"
            bar = Bar(size=_BAR_END, begin=0, end=min(figure.share, _BAR_END), width=_BAR_WIDTH, color=colour)
            grid.add_row(figure.what, f"{figure.share:.0%}", bar)
    console.print(grid)
    drawing = console.export_svg(title="Share of the target used up (time or memory; up to 100 % it is met)")
    # The fonts lie on somebody's server; without them the viewer's own serve.
    return re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits are enough
