"""Texts from outside: shown as they are, but for what acts on a terminal or forges a line of a log."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spell_billing.core.errors import LedgerError
from spell_billing.core.shown import one_line, printable

NAMES = ["team[/a]", "straße", "no\u00a0break", "👩‍👧", "עברית", "=HYPERLINK(1)", "a\\b"]


@given(st.text())
def test_no_control_character_and_no_line_break_is_left(text: str) -> None:
    shown = one_line(text)
    assert not {unicodedata.category(letter) for letter in shown} & {"Cc", "Zl", "Zp"}
    assert len(shown.splitlines()) <= 1
    assert printable(text).split("\n") == [one_line(line) for line in text.split("\n")]


@pytest.mark.parametrize("text", NAMES)
def test_all_else_is_shown_as_it_is(text: str) -> None:
    assert one_line(text) == text


def test_an_error_names_what_it_is_about_on_one_line() -> None:
    error = LedgerError("User a\x1b[31m\nb has no bill.", remedy="Check the id.")
    assert str(error) == r"User a\x1b[31m\nb has no bill. Check the id."
