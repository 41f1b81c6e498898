"""Texts from outside, such as user ids, as people see them: what would act on a terminal is spelled out."""

import re

_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, line breaks, and what turns the direction of writing."""


def one_line(text: str) -> str:
    r"""Return the text on one line: a line break appears as `\n`, the escape character as `\x1b`."""
    return _ACTING.sub(_spelled_out, text)


def printable(text: str) -> str:
    """Return the text with its line breaks, all else spelled out as in `one_line`."""
    return "\n".join(map(one_line, text.split("\n")))


def _spelled_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
