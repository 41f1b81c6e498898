"""The chart of a simulation: one standalone SVG, for each currency two bars a month, before and after."""

from collections.abc import Iterator
from html import escape

from spell_billing.core.money import format_money
from spell_billing.reporting.simulate import Simulation

_LEFT, _RIGHT, _SLOT, _BAR, _GAP = 16, 16, 112, 44, 4
_TITLE, _PANEL, _BARS, _LABELS, _ROW = 44, 236, 140, 56, 14
_NARROWEST = 640
"""As wide as the title."""
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2933}.title{font-size:16px;font-weight:600}"
    ".amount,.month{text-anchor:middle;font-size:10px}.before{fill:#9aa5b1}.after{fill:#2457a6}"
    "text.before{fill:#616e7c}"
    ".base{stroke:#7b8794}"
)


def draw(simulation: Simulation) -> str:
    """Return the chart as SVG. It needs no other file and no script; amounts below zero have no bar."""
    currencies = [each.currency for each in simulation.figures]
    width = max(_NARROWEST, _LEFT + _RIGHT + _SLOT * len(simulation.months))
    height = _TITLE + _PANEL * len(currencies)
    first, last = simulation.months[0].month, simulation.months[-1].month
    title = f"{first.label} to {last.label}: before, and under other prices"
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{escape(title)}">'
        ),
        f'<style>{_STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text class="title" x="{_LEFT}" y="26">{escape(title)}</text>',
    ]
    for place, currency in enumerate(currencies):
        parts += _panel(simulation, currency, _TITLE + place * _PANEL, width)
    return "\n".join([*parts, "</svg>", ""])


def _panel(simulation: Simulation, currency: str, top: int, width: int) -> Iterator[str]:
    months = [
        (each.month, next((one for one in each.figures if one.currency == currency), None))
        for each in simulation.months
    ]
    amounts = [cents for _, one in months if one for cents in (one.before_cents, one.after_cents)]
    highest = max([1, *amounts])
    floor = top + _PANEL - _LABELS
    yield (
        f'<text x="{_LEFT}" y="{top + 12}">{escape(currency.upper())}</text>'
        f'<rect class="before" x="{_LEFT + 48}" y="{top + 3}" width="10" height="10"/>'
        f'<text x="{_LEFT + 62}" y="{top + 12}">before</text>'
        f'<rect class="after" x="{_LEFT + 116}" y="{top + 3}" width="10" height="10"/>'
        f'<text x="{_LEFT + 130}" y="{top + 12}">after</text>'
    )
    for place, (month, found) in enumerate(months):
        left = _LEFT + place * _SLOT + _GAP
        yield f'<text class="month" x="{left + _BAR + _GAP // 2}" y="{floor + 3 * _ROW}">{month}</text>'
        if found is None:
            continue
        for side, (kind, cents) in enumerate((("before", found.before_cents), ("after", found.after_cents))):
            x, tall = left + side * (_BAR + _GAP), max(0, cents) * _BARS // highest
            money = escape(format_money(cents, currency, grouping=True))
            yield (
                f'<rect class="{kind}" x="{x}" y="{floor - tall}" width="{_BAR}" height="{tall}">'
                f"<title>{month.label}, {kind}: {money}</title></rect>"
                # One below the other: two amounts in millions are wider than their bars.
                f'<text class="amount {kind}" x="{left + _BAR + _GAP // 2}" y="{floor + (side + 1) * _ROW}">'
                f"{money}</text>"
            )
    yield f'<line class="base" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{floor}" y2="{floor}"/>'
