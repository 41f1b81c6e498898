"""What pages of the reference are made of: tables, and the part of a page that is made of the code."""

import os
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table of Markdown."""
    lines = [head, ["---" for _ in head], *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def require_table(page: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Compare the page's table with that head, or write it where that is asked for."""
    text = (DOCS / page).read_text()
    start = text.index(f"| {' | '.join(head)} |\n")
    _require(page, text, start, text.index("\n\n", start) + 1, table(head, rows))


def require_rest(page: str, wanted: str) -> None:
    """Compare the page, from the first line of what is wanted on, or write it where that is asked for."""
    text = (DOCS / page).read_text()
    _require(page, text, text.index(wanted.partition("\n")[0] + "\n"), len(text), wanted)


def _require(page: str, text: str, start: int, end: int, wanted: str) -> None:
    if os.environ.get("RECORD_REFERENCE"):
        (DOCS / page).write_text(text[:start] + wanted + text[end:])
    else:
        assert text[start:end] == wanted
