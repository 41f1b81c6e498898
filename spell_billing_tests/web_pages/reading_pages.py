"""Reads a page as a browser would: its text, its links, and what a page of ours must and must not have."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

_VOID = {"meta", "input", "br", "line", "rect"}
_FETCHING = {"src", "srcset", "data", "poster", "background", "onload", "onerror", "onclick", "style"}


@dataclass
class Page(HTMLParser):
    """A parsed page."""

    source: str
    words: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    headings: list[tuple[int, str]] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._link: str | None = None
        self.feed(self.source)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag == "a":
            self._link = values.get("href")
        if tag == "tr":
            self.rows.append([])
        if tag in {"th", "td"}:
            self.rows[-1].append("")
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if not text or "style" in self._open:
            return
        self.words.append(text)
        if "a" in self._open and self._link is not None:
            self.links[text] = self._link
        if {"th", "td"} & set(self._open):
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {text}".strip()
        if any(re.fullmatch(r"h[1-6]", each) for each in self._open):
            level, so_far = self.headings[-1]
            self.headings[-1] = level, f"{so_far} {text}".strip()

    @property
    def text(self) -> str:
        """All that a person reads."""
        return " ".join(self.words)

    def row(self, first: str) -> Sequence[str]:
        """Give the cells of the first row of a table whose first cell begins so."""
        found = [cells for cells in self.rows if cells and cells[0].startswith(first)]
        assert found, f"no row {first!r} among {self.rows}"
        return found[0]

    def must_be_sound(self) -> None:
        """Refuse what no page of ours may have, and miss nothing that each must have."""
        names = [tag for tag, _ in self.tags]
        assert ("html", {"lang": "en"}) in self.tags
        assert not {"script", "link", "img", "iframe", "object", "embed", "font", "base"} & set(names)
        for tag, values in self.tags:
            assert not _FETCHING & set(values), (tag, values)
            if tag == "th":
                assert values.get("scope") in {"col", "row"}, values
            if tag == "a":
                address = values["href"] or ""
                assert address.startswith(("/", "#", "?", "https://")), address
                assert not address.startswith("//"), address
            if tag == "table":
                assert "caption" in names
        ids = [values["id"] for _, values in self.tags if "id" in values]
        assert len(ids) == len(set(ids)), ids
        for name in ("aria-labelledby", "aria-describedby", "for"):
            wanted = [each for _, values in self.tags for each in (values.get(name) or "").split()]
            assert set(wanted) <= set(ids), name
        levels = [level for level, _ in self.headings]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert "url(" not in self.source
        assert "@import" not in self.source
