"""`.env.example` names every setting, and none that does not exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_names_the_settings_that_the_docs_describe() -> None:
    described = re.findall(r"^\| `([A-Z_]+)`", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    named = re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)

    assert named == described
