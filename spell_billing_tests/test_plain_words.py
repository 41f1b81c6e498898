"""Words that CONTRIBUTING.md keeps out stand in no page, string, name or comment."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BANNED = re.compile(
    r"\b(mend(s|ed|ing)?|whoever|people (hear|know)|hears? of|of late|so long|strangers?|doors?"
    r"|(tell|tells|told|telling) people)\b",
    re.IGNORECASE,
)
READ = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(
        path
        for path in (ROOT / "spell_billing").rglob("*")
        if path.suffix in {".py", ".html", ".yaml", ".txt"}
    ),
]


def test_plain_words_are_used() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in READ
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BANNED.search(line)
    ]

    assert found == []


def test_a_banned_word_would_be_found() -> None:
    assert BANNED.search("Mend it, and people hear of it.")
    assert not BANNED.search("recommended, outdoors, indoor")
