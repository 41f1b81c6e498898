"""What everyone must be able to see: contrast by WCAG 2.2, in light and dark; charts that are true."""

import re
from importlib.resources import files

import pytest

from spell_billing.core.month import Month
from spell_billing.web.charts import HEIGHT, WIDTH, Column, bar_chart

STYLE = (files("spell_billing.web") / "templates" / "style.css").read_text()
TEXT, GRAPHIC = 4.5, 3.0


def palette(mode: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{([^}]*)\}", STYLE)[:2]
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", light))
    return found if mode == "light" else {**found, **dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", dark))}


def luminance(color: str) -> float:
    """As WCAG 2.2 defines relative luminance."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_graphics_stand_out(mode: str) -> None:
    colors = palette(mode)
    wanted = [
        *(
            (name, ground, TEXT)
            for name in ("ink", "soft", "act", "wrong", "good")
            for ground in ("paper", "panel")
        ),
        ("on-act", "act", TEXT),
        *((name, "paper", GRAPHIC) for name in ("line", "bar", "expected", "act")),
        ("line", "panel", GRAPHIC),
    ]

    too_weak = {
        (name, ground): round(contrast(colors[name], colors[ground]), 2)
        for name, ground, least in wanted
        if contrast(colors[name], colors[ground]) < least
    }

    assert too_weak == {}


def test_the_contrast_is_computed_as_wcag_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_every_color_is_of_the_palette() -> None:
    rules = re.sub(r":root \{[^}]*\}", "", STYLE)

    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl", rules) == []
    assert set(re.findall(r"var\(--([a-z-]+)\)", rules)) <= set(palette("light"))
    assert set(palette("light")) == set(palette("dark"))


def test_the_focus_is_visible_and_nothing_is_fetched() -> None:
    assert ":focus-visible { outline: 3px solid var(--act)" in STYLE
    assert "outline: none" not in STYLE
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert "tabular-nums" in STYLE


@pytest.mark.parametrize(
    "values", [[0], [0, 0], [1], [3, 4], [99_999_999], [7, 0, 10**15], list(range(12)), [5] * 24]
)
def test_bars_are_as_high_as_their_values_and_stay_inside(values: list[int]) -> None:
    columns = [Column(Month(2025, 3).plus(place), value) for place, value in enumerate(values)]
    chart = bar_chart("c", "Title", unit="Cost", columns=columns, write=str)
    top = int(chart.lines[-1].text)
    plot = chart.lines[0].y - chart.lines[-1].y

    assert top >= max(values)
    for bar in chart.bars:
        assert abs(bar.height * top - bar.column.value * plot) <= top
        assert bar.y + bar.height == chart.lines[0].y
        assert chart.left <= bar.x < bar.x + bar.width <= chart.right <= WIDTH
        assert 0 <= bar.y <= HEIGHT
    starts = [bar.x for bar in chart.bars]
    assert starts == sorted(set(starts))
    assert [line.y for line in chart.lines] == sorted((line.y for line in chart.lines), reverse=True)
