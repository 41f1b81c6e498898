"""The page of threats names tests that exist."""

import re

from spell_billing_tests.triggering.served import ROOT

PAGE = ROOT / "docs" / "security.md"


def test_every_test_that_the_page_of_threats_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    sources = [path.read_text() for path in (ROOT / "spell_billing_tests").rglob("test_*.py")]
    written = set(re.findall(r"^(?:async )?def (test_\w+)", "\n".join(sources), re.MULTILINE))

    assert len(named) > 60
    assert named - written == set()


def test_every_threat_is_covered_by_a_test() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    threats = [row for row in rows if row[1].strip() != "threat"]

    assert len(threats) > 30
    assert [row[1].strip() for row in threats if "`test_" not in row[3]] == []
