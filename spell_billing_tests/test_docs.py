"""Links of README and docs lead somewhere, every page is in the site's navigation, and pictures are there."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
        *DOCS.rglob("*.md"),
    ]
)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub and the site write them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", each).lower() for each in headings)
    return {re.sub(r"[^\w\- ]", "", each).strip().replace(" ", "-") for each in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_of_it(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    wrong = []
    for target, anchor in LINK.findall(text):
        file = (page.parent / target) if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            wrong.append(f"{target}#{anchor}")

    assert wrong == []


def test_every_page_is_in_the_sites_navigation_and_each_entry_is_a_page() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]

    assert sorted(entries(nav)) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def entries(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    assert not isinstance(parts, (int, float))
    return [name for part in parts for name in entries(part)]  # type: ignore[attr-defined]


def test_the_picture_of_the_demo_loads_nothing_from_elsewhere() -> None:
    svg = (DOCS / "pictures" / "demo.svg").read_text()

    assert "The&#160;story&#160;of" in svg
    assert re.findall(r"url\((?!#)|@import|<script|https?://(?!www\.w3\.org)", svg) == []
