"""Brings what a server says into lines that are safe to print: in a terminal, and in the log of a CI."""

_LONGEST = 400


def one_line(text: str) -> str:
    """Return text on one line of at most 400 characters, without control characters.

    GitHub takes `##[...]` anywhere in a line of a job's log as a command; a user id may hold it.
    """
    words = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    words = words.replace("##[", "## [")
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 4]} ..."
